"""The dual-stage model at inference, top to bottom: restore, encode, sample, decode, fix, project.

Histo-Diffusion 2024, figure 9. Every window is computed from its own pixels alone, with noise
addressed by global position, so a window has the same pixels whatever it is computed beside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wsisr.errors import UsageError
from wsisr.models.colour import COLOR_FIXES
from wsisr.models.consistency import project
from wsisr.models.diffusion import ControllableDiffusion, Vae, decode, encode, latent_factor
from wsisr.models.restoration import SwinIR, channels_last
from wsisr.models.sampling import SAMPLERS, Schedule, spaced_timesteps
from wsisr.models.windows import WindowInput
from wsisr_kernels import philox_normal_batch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How a model is run.

    Attributes:
        sampler: a name in `SAMPLERS`.
        steps: denoising steps.
        start_timestep: noise level at which sampling starts, 0..999.
        start_from: `condition` (the restored image's latent, noised) or `noise` (pure).
        fidelity: 0 = all generated detail, 1 = stage 1 only.
        color_fix: `wavelet`, `adain` or `none`.
        consistency: `soft` (the result, reduced again, agrees with the input) or `off`.
        seed: of the noise field, 0..2^64 - 1.
        precision: `fp32`, `bf16` or `fp16`, of the networks' arithmetic.
    """

    sampler: str = "spaced-ddpm"
    steps: int = 50
    start_timestep: int = 999
    start_from: str = "noise"
    fidelity: float = 0.0
    color_fix: str = "wavelet"
    consistency: str = "soft"
    seed: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        choices = (
            ("--sampler", self.sampler, tuple(SAMPLERS)),
            ("--color-fix", self.color_fix, (*COLOR_FIXES, "none")),
            ("--consistency", self.consistency, ("soft", "off")),
            ("--precision", self.precision, tuple(PRECISIONS)),
            ("start_from", self.start_from, ("condition", "noise")),
        )
        for option, value, allowed in choices:
            if value not in allowed:
                raise UsageError(f"{option} {value}: must be one of {', '.join(allowed)}")
        if not 0 <= self.fidelity <= 1:
            raise UsageError(f"--fidelity {self.fidelity:g}: must lie between 0 and 1")
        if not 1 <= self.steps <= 1000:
            raise UsageError(f"--steps {self.steps}: must lie between 1 and 1000")
        if not 0 <= self.start_timestep <= 999:
            raise UsageError(f"start_timestep {self.start_timestep}: must lie between 0 and 999")
        if not 0 <= self.seed < 2**64:
            raise UsageError(f"--seed {self.seed}: must lie between 0 and 2^64 - 1")


@dataclass(frozen=True)
class SecondStage:
    """The parts of the controllable diffusion module."""

    vae: Vae
    diffusion: ControllableDiffusion
    schedule: Schedule


def generate(
    second: SecondStage,
    settings: Settings,
    restored: Tensor,
    noise: Callable[[int, torch.Size], Tensor],
) -> Tensor:
    """Stage 2 from restored image to generated image: encode, sample, decode.

    Differentiable, so that few-step students train on the very path of inference.

    Args:
        second: the networks.
        settings: sampler, steps and start.
        restored: (B, 3, H, W) in [0, 1].
        noise: (index of the step, shape of the latents) -> standard normal noise.

    Returns:
        (B, 3, H, W), about [0, 1] and not clipped.
    """
    condition = encode(second.vae, restored)
    shape, dtype = condition.shape, condition.dtype

    def denoise(z: Tensor, t: int) -> Tensor:
        output = second.diffusion(z.to(dtype), t, condition).float()
        return second.schedule.epsilon(output, z, t)

    def draw(step: int) -> Tensor:
        return noise(step, shape).to(dtype).float()

    timesteps = spaced_timesteps(settings.steps, settings.start_timestep)
    z = draw(0)
    if settings.start_from == "condition":
        z = second.schedule.q_sample(condition.float(), timesteps[0], z)
    z = SAMPLERS[settings.sampler](denoise, z, timesteps, second.schedule, draw)
    return decode(second.vae, z.to(dtype))


def add_detail(settings: Settings, restored: Tensor, generated: Tensor) -> Tensor:
    """Colour fix and fidelity: the restored image with the wanted share of generated detail.

    Args:
        settings: colour fix and fidelity.
        restored, generated: (B, 3, H, W) float32.

    Returns:
        (B, 3, H, W), not clipped and not yet in agreement with the input.
    """
    if settings.color_fix != "none":
        generated = COLOR_FIXES[settings.color_fix](generated, restored)
    return restored + (1 - settings.fidelity) * (generated - restored)


class DualStage(nn.Module):
    """A loaded model with its settings; an `Upscaler`.

    Args:
        restoration: stage 1.
        second: stage 2, or None for a model (or a fidelity) without it.
        settings: how to run it.
        identity: name and weight hashes, for the provenance.
        device: where the parts are.
    """

    def __init__(
        self,
        restoration: SwinIR,
        second: SecondStage | None,
        settings: Settings,
        identity: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        self.restoration, self.second = restoration, second
        self.settings, self.identity, self.device = settings, identity, device
        if second is not None:
            self.parts = nn.ModuleList((second.vae, second.diffusion))
        self.eval().requires_grad_(False).to(device)
        channels_last(self)

    @torch.inference_mode()
    def forward(self, windows: Sequence[WindowInput]) -> Tensor:
        """Upscale a batch of windows.

        Returns:
            (B, 3, tile, tile) float32, about [0, 1] and not clipped.
        """
        settings = self.settings
        resized = torch.stack([window.resized() for window in windows])
        resized = resized.to(self.device, memory_format=torch.channels_last)
        dtype = PRECISIONS[settings.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            restored = self._agree(self.restoration(resized).clamp(0, 1), windows).clamp(0, 1)
            generated = self._generate(restored, windows) if self._second_wanted else None
        image = restored.float()
        if generated is not None:
            image = self._agree(add_detail(settings, image, generated.float()), windows)
        return image

    def describe(self) -> Mapping[str, Any]:
        """See `Upscaler`."""
        return {**self.identity, "settings": asdict(self.settings)}

    @property
    def _second_wanted(self) -> bool:
        return self.second is not None and self.settings.fidelity < 1

    def _generate(self, restored: Tensor, windows: Sequence[WindowInput]) -> Tensor:
        assert self.second is not None
        factor = latent_factor(self.second.vae)
        origins = [(window.y // factor, window.x // factor) for window in windows]

        def noise(step: int, shape: torch.Size) -> Tensor:
            channels, height, width = shape[1:]
            return philox_normal_batch(
                self.settings.seed, step, origins, height, width, channels, str(self.device)
            )

        return generate(self.second, self.settings, restored, noise)

    def _agree(self, images: Tensor, windows: Sequence[WindowInput]) -> Tensor:
        """With soft consistency, the images brought into agreement with their inputs."""
        if self.settings.consistency == "off":
            return images
        agreed = []
        for image, window in zip(images.float(), windows, strict=True):
            rows, columns = window.rows.to(self.device), window.columns.to(self.device)
            agreed.append(project(image[None], window.lr.to(self.device)[None], rows, columns)[0])
        return torch.stack(agreed)
