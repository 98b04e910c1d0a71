"""Noise schedules and samplers: one short function a sampler, a denoiser is a callable.

All samplers work on any latents (B, C, h, w) and get their noise from a callable, so that noise
can be addressed by position instead of drawn in some order. Names of samplers are asked for before
anything is computed, so torch is imported by the functions that compute with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Denoiser: TypeAlias = "Callable[[Tensor, int], Tensor]"
"""(z_t, t) -> the predicted noise epsilon."""

NoiseSource: TypeAlias = "Callable[[int], Tensor]"
"""Index of the step -> standard normal noise of the latents' shape. Index 0 is the start."""

SMALLEST_SIGNAL = 1e-8
"""alpha_bar that stands for less: nothing of x0 is left in z_t at zero terminal SNR."""


@dataclass(frozen=True)
class Schedule:
    """How noise grows with the timestep, and what the network predicts.

    Attributes:
        alphas_cumprod: (T,) float64, the products of 1 - beta.
        prediction: `epsilon` or `v`.
    """

    alphas_cumprod: Tensor
    prediction: str = "epsilon"

    def epsilon(self, output: Tensor, z: Tensor, t: int) -> Tensor:
        """Gives the noise in z_t according to the network's output.

        Args:
            output: (B, C, h, w), what the network predicts.
            z: (B, C, h, w), z_t.
            t: the timestep.

        Returns:
            (B, C, h, w).
        """
        if self.prediction == "epsilon":
            return output
        a = float(self.alphas_cumprod[t])
        # the floor of `predicted_x0`, so that at zero terminal SNR it finds x0 = -v, not 0 / 0
        return math.sqrt(max(a, SMALLEST_SIGNAL)) * output + math.sqrt(1 - a) * z

    def q_sample(self, x0: Tensor, t: Tensor | int, noise: Tensor) -> Tensor:
        """Adds noise to clean latents.

        Args:
            x0: (B, C, h, w) clean latents.
            t: one timestep, or (B,) of them.
            noise: (B, C, h, w), standard normal.

        Returns:
            z_t (B, C, h, w).
        """
        import torch

        a = self.alphas_cumprod.to(x0.device)[torch.as_tensor(t, device=x0.device)].to(x0.dtype)
        a = a.view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise


def make_schedule(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    steps: int = 1000,
    prediction: str = "epsilon",
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Makes Stable Diffusion's schedule: betas linear in their square root.

    Args:
        beta_start: first beta.
        beta_end: last beta.
        steps: number of training timesteps.
        prediction: `epsilon` or `v`.
        zero_terminal_snr: shift and scale so that no signal is left at the last timestep
            (Lin et al. 2024, algorithm 1).

    Returns:
        The schedule, on the CPU.

    Raises:
        ValueError: unknown prediction.
    """
    if prediction not in ("epsilon", "v"):
        raise ValueError(f"prediction {prediction!r} is neither epsilon nor v")
    import torch

    roots = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64)
    alphas_cumprod = torch.cumprod(1 - roots**2, 0)
    if zero_terminal_snr:
        root = alphas_cumprod.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        alphas_cumprod = root**2
    return Schedule(alphas_cumprod, prediction)


def spaced_timesteps(steps: int, start: int = 999) -> list[int]:
    """Spreads timesteps evenly from `start` down to 0 (Nichol and Dhariwal 2021).

    50 steps from 999 are 999, 979, … 41, 20, 0, the paper's. A single step is `start` itself.

    Args:
        steps: how many.
        start: the first.

    Returns:
        The timesteps; fewer distinct ones than asked for are returned once each.

    Raises:
        ValueError: less than one step, or a negative start.
    """
    if steps < 1 or start < 0:
        raise ValueError(f"{steps} steps from timestep {start}: need at least one step from 0")
    if steps == 1:
        return [start]
    # round half to even, as the reference does; 999 / 49 never meets a half
    return sorted({round(i * start / (steps - 1)) for i in range(steps)}, reverse=True)


def few_step_timesteps(steps: int, start: int = 999) -> list[int]:
    """Spreads timesteps evenly over (0, start]: 4 from 999 are 999, 749, 500, 250.

    Unlike `spaced_timesteps` none is 0, where a network that leaps to the clean image in one step
    has nothing left to do.

    Args:
        steps: how many.
        start: the first.

    Returns:
        The timesteps; fewer distinct ones than asked for are returned once each.

    Raises:
        ValueError: less than one step, or a negative start.
    """
    if steps < 1 or start < 0:
        raise ValueError(f"{steps} steps from timestep {start}: need at least one step from 0")
    return sorted({round(start * (steps - i) / steps) for i in range(steps)}, reverse=True)


def timesteps_of(sampler: str, steps: int, start: int = 999) -> list[int]:
    """Gives the timesteps that a sampler visits, from `start` downwards.

    Args:
        sampler: a name in `SAMPLERS`.
        steps: how many.
        start: the first.

    Returns:
        See `spaced_timesteps`.
    """
    spaced = few_step_timesteps if sampler == "few-step" else spaced_timesteps
    return spaced(steps, start)


def predicted_x0(schedule: Schedule, z: Tensor, epsilon: Tensor, t: int) -> Tensor:
    """Gives the clean latents that z_t and its noise imply."""
    a = float(schedule.alphas_cumprod[t])
    # at zero terminal SNR nothing of x0 is left in z_t; the floor keeps the quotient finite
    return (z - math.sqrt(1 - a) * epsilon) / math.sqrt(max(a, SMALLEST_SIGNAL))


def spaced_ddpm(
    denoise: Denoiser, z: Tensor, timesteps: Sequence[int], schedule: Schedule, noise: NoiseSource
) -> Tensor:
    """Samples ancestrally on a subset of the timesteps (Nichol and Dhariwal 2021, section 4).

    The betas are those of the shortened chain and the variance is the posterior's
    ("fixed small"). The last step returns the predicted x0 without noise.
    """
    for index, t in enumerate(timesteps):
        last = index + 1 == len(timesteps)
        a = float(schedule.alphas_cumprod[t])
        a_next = 1.0 if last else float(schedule.alphas_cumprod[timesteps[index + 1]])
        alpha = a / a_next
        x0 = predicted_x0(schedule, z, denoise(z, t), t)
        mean_x0 = a_next**0.5 * (1 - alpha) / (1 - a)
        mean_z = alpha**0.5 * (1 - a_next) / (1 - a)
        z = mean_x0 * x0 + mean_z * z
        if not last:
            z = z + ((1 - a_next) / (1 - a) * (1 - alpha)) ** 0.5 * noise(index + 1)
    return z


def ddim(
    denoise: Denoiser, z: Tensor, timesteps: Sequence[int], schedule: Schedule, noise: NoiseSource
) -> Tensor:
    """Samples deterministically (Song et al. 2021, eta 0); `noise` is not used."""
    for index, t in enumerate(timesteps):
        last = index + 1 == len(timesteps)
        a_next = 1.0 if last else float(schedule.alphas_cumprod[timesteps[index + 1]])
        epsilon = denoise(z, t)
        x0 = predicted_x0(schedule, z, epsilon, t)
        z = a_next**0.5 * x0 + (1 - a_next) ** 0.5 * epsilon
    return z


def euler(
    denoise: Denoiser, z: Tensor, timesteps: Sequence[int], schedule: Schedule, noise: NoiseSource
) -> Tensor:
    """Follows the probability flow in sigma by Euler's method (Karras et al. 2022).

    With x = z / sqrt(alpha_bar) and sigma = sqrt(1 / alpha_bar - 1) the flow is dx/dsigma =
    epsilon. On the same timesteps this is DDIM in other variables, and agrees with it to rounding.
    `noise` is not used.
    """
    root, sigma = _root_and_sigma(schedule, timesteps[0])
    x = z / root
    for index, t in enumerate(timesteps):
        last = index + 1 == len(timesteps)
        root_next, sigma_next = (
            (1.0, 0.0) if last else _root_and_sigma(schedule, timesteps[index + 1])
        )
        x = x + (sigma_next - sigma) * denoise(x * root, t)
        root, sigma = root_next, sigma_next
    return x


def _root_and_sigma(schedule: Schedule, t: int) -> tuple[float, float]:
    a = max(float(schedule.alphas_cumprod[t]), 1e-8)
    return a**0.5, ((1 - a) / a) ** 0.5


def few_step(
    denoise: Denoiser, z: Tensor, timesteps: Sequence[int], schedule: Schedule, noise: NoiseSource
) -> Tensor:
    """Leaps to x0, adds noise and leaps from the next timestep (Luo et al. 2023, algorithm 1).

    For networks distilled to find x0 in one step. The boundary weights of that paper differ from
    0 and 1 by less than 1e-4 at every timestep above 5, and are left out.
    """
    x0 = z
    for index, t in enumerate(timesteps):
        x0 = predicted_x0(schedule, z, denoise(z, t), t)
        if index + 1 < len(timesteps):
            z = schedule.q_sample(x0, timesteps[index + 1], noise(index + 1))
    return x0


def dpm_solver_pp(
    denoise: Denoiser, z: Tensor, timesteps: Sequence[int], schedule: Schedule, noise: NoiseSource
) -> Tensor:
    """Samples by DPM-Solver++ 2M, second order in x0 (Lu et al. 2022); `noise` is not used."""
    import torch

    previous: tuple[Tensor, float] | None = None
    for index, t in enumerate(timesteps):
        a = float(schedule.alphas_cumprod[t])
        x0 = predicted_x0(schedule, z, denoise(z, t), t)
        if index + 1 == len(timesteps):
            return x0
        a_next = float(schedule.alphas_cumprod[timesteps[index + 1]])
        h = _log_snr(a_next) - _log_snr(a)
        target = x0
        if previous is not None:
            ratio = previous[1] / h
            target = (1 + 0.5 / ratio) * x0 - 0.5 / ratio * previous[0]
        shrink = ((1 - a_next) / (1 - a)) ** 0.5
        z = shrink * z - a_next**0.5 * torch.expm1(torch.tensor(-h)).item() * target
        previous = (x0, h)
    return z


def _log_snr(alpha_cumprod: float) -> float:
    import torch

    a = torch.tensor(max(alpha_cumprod, 1e-12), dtype=torch.float64)
    return float(0.5 * (a.log() - (1 - a).log()))


Sampler: TypeAlias = "Callable[[Denoiser, Tensor, Sequence[int], Schedule, NoiseSource], Tensor]"
"""(denoiser, noisy latents at the first timestep, timesteps, schedule, noise) -> clean latents."""

SAMPLERS: dict[str, Sampler] = {
    "spaced-ddpm": spaced_ddpm,
    "ddim": ddim,
    "dpm-solver++": dpm_solver_pp,
    "euler": euler,
    "few-step": few_step,
}
