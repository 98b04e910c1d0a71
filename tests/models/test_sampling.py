from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from wsisr.models.sampling import (
    SAMPLERS,
    few_step_timesteps,
    make_schedule,
    predicted_x0,
    spaced_timesteps,
    timesteps_of,
)

PAPER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def toy_denoiser(z: Tensor, t: int) -> Tensor:
    """Any smooth function of z and t will do."""
    return 0.6 * z + 0.1 * torch.sin(3 * z + t / 200)


def noise_of(step: int) -> Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(step)).double()


def test_the_papers_fifty_timesteps() -> None:
    steps = spaced_timesteps(50)
    assert steps[-3:] == [41, 20, 0]
    assert steps[:2] == [999, 979]
    reference = DDPMScheduler(timestep_spacing="linspace")
    reference.set_timesteps(50)
    assert steps == reference.timesteps.tolist()


def test_schedule_is_stable_diffusions() -> None:
    ours = make_schedule().alphas_cumprod
    reference = DDPMScheduler(**PAPER).alphas_cumprod.double()
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=0)
    assert float(ours[999]) ** 0.5 == pytest.approx(0.068, abs=5e-4)


def test_zero_terminal_snr_schedule() -> None:
    ours = make_schedule(zero_terminal_snr=True).alphas_cumprod
    reference = DDPMScheduler(**PAPER, rescale_betas_zero_snr=True).alphas_cumprod.double()
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=5e-7)
    assert float(ours[-1]) == 0


@pytest.mark.parametrize("steps", [2, 5, 50])
def test_spaced_ddpm_is_the_reference(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = DDPMScheduler(
        **PAPER, timestep_spacing="linspace", variance_type="fixed_small", clip_sample=False
    )
    reference.set_timesteps(steps)
    drawn = iter(range(1, steps + 1))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise_of(next(drawn))
    )
    expected = noise_of(0)
    for t in reference.timesteps:
        expected = reference.step(toy_denoiser(expected, int(t)), t, expected).prev_sample
    ours = SAMPLERS["spaced-ddpm"](
        toy_denoiser, noise_of(0), spaced_timesteps(steps), make_schedule(), noise_of
    )
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_ddim_is_the_reference() -> None:
    reference = DDIMScheduler(
        **PAPER, timestep_spacing="linspace", clip_sample=False, set_alpha_to_one=True
    )
    # the reference steps to t - 1000 / steps; ours to the next of its timesteps: equal spacing
    reference.set_timesteps(5)
    timesteps = [800, 600, 400, 200, 0]
    expected = noise_of(0)
    for t in timesteps:
        expected = reference.step(toy_denoiser(expected, t), t, expected).prev_sample
    ours = SAMPLERS["ddim"](toy_denoiser, noise_of(0), timesteps, make_schedule(), noise_of)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_dpm_solver_is_the_reference() -> None:
    reference = DPMSolverMultistepScheduler(
        **PAPER, solver_order=2, lower_order_final=False, final_sigmas_type="zero"
    )
    reference.set_timesteps(8)
    expected = noise_of(0)
    for t in reference.timesteps:
        expected = reference.step(toy_denoiser(expected, int(t)), t, expected).prev_sample
    ours = SAMPLERS["dpm-solver++"](
        toy_denoiser, noise_of(0), reference.timesteps.tolist(), make_schedule(), noise_of
    )
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_euler_is_the_reference_and_ddim_in_other_variables() -> None:
    reference = EulerDiscreteScheduler(**PAPER, timestep_spacing="trailing")
    reference.set_timesteps(5)
    timesteps = [int(t) for t in reference.timesteps]
    root = float(make_schedule().alphas_cumprod[timesteps[0]]) ** 0.5
    expected = noise_of(0) / root
    for t in reference.timesteps:
        scaled = reference.scale_model_input(expected, t)
        expected = reference.step(toy_denoiser(scaled, int(t)), t, expected).prev_sample
    ours = SAMPLERS["euler"](toy_denoiser, noise_of(0), timesteps, make_schedule(), noise_of)
    torch.testing.assert_close(ours, expected.double(), rtol=1e-5, atol=2e-5)
    ddim = SAMPLERS["ddim"](toy_denoiser, noise_of(0), timesteps, make_schedule(), noise_of)
    torch.testing.assert_close(ours, ddim)


def test_few_step_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = LCMScheduler(**PAPER, clip_sample=False)
    reference.set_timesteps(4)
    timesteps = [int(t) for t in reference.timesteps]
    drawn = iter(range(1, 5))
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *a, **k: noise_of(next(drawn))
    )
    expected = noise_of(0)
    for t in reference.timesteps:
        expected = reference.step(toy_denoiser(expected, int(t)), t, expected).prev_sample
    ours = SAMPLERS["few-step"](toy_denoiser, noise_of(0), timesteps, make_schedule(), noise_of)
    torch.testing.assert_close(ours, expected.double(), rtol=1e-5, atol=1e-5)


def test_few_steps_never_stand_at_zero() -> None:
    assert few_step_timesteps(4) == [999, 749, 500, 250]
    assert timesteps_of("few-step", 1, 200) == [200]
    assert timesteps_of("ddim", 4) == spaced_timesteps(4)
    with pytest.raises(ValueError, match="step"):
        few_step_timesteps(0)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 4, 50])
def test_a_perfect_denoiser_finds_the_clean_latent(name: str, steps: int) -> None:
    schedule = make_schedule()
    clean = noise_of(99)

    def perfect(z: Tensor, t: int) -> Tensor:
        a = float(schedule.alphas_cumprod[t])
        return (z - a**0.5 * clean) / (1 - a) ** 0.5

    timesteps = spaced_timesteps(steps, 700)
    start = schedule.q_sample(clean, timesteps[0], noise_of(0))
    found = SAMPLERS[name](perfect, start, timesteps, schedule, noise_of)
    torch.testing.assert_close(found, clean, rtol=1e-6, atol=1e-6)


def test_v_prediction_gives_the_same_noise() -> None:
    schedule = make_schedule(prediction="v")
    clean, noise = noise_of(1), noise_of(2)
    for t in (0, 500, 999):
        a = float(schedule.alphas_cumprod[t])
        z = schedule.q_sample(clean, t, noise)
        v = a**0.5 * noise - (1 - a) ** 0.5 * clean
        epsilon = schedule.epsilon(v, z, t)
        torch.testing.assert_close(epsilon, noise)
        torch.testing.assert_close(predicted_x0(schedule, z, epsilon, t), clean)


@pytest.mark.parametrize(("steps", "start"), [(0, 999), (5, -1)])
def test_impossible_timesteps(steps: int, start: int) -> None:
    with pytest.raises(ValueError, match="step"):
        spaced_timesteps(steps, start)


def test_unknown_prediction() -> None:
    with pytest.raises(ValueError, match="prediction"):
        make_schedule(prediction="x")
