"""The dual-stage model at inference, top to bottom: restore, encode, sample, decode, fix, project.

Histo-Diffusion 2024, figure 9. Every window is computed from its own pixels alone, with noise
addressed by global position, so a window has the same pixels whatever it is computed beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from wsisr.errors import UsageError
from wsisr.models.colour import COLOR_FIXES
from wsisr.models.compilation import compile_blocks
from wsisr.models.consistency import project, project_limited
from wsisr.models.joint import averaged
from wsisr.models.networks import (
    ControllableDiffusion,
    PlainNet,
    Vae,
    channels_last,
    decode,
    encode,
    latent_factor,
)
from wsisr.models.sampling import SAMPLERS, Schedule, timesteps_of
from wsisr.models.settings import PRECISIONS, Settings
from wsisr.models.windows import WindowInput


@dataclass(frozen=True)
class SecondStage:
    """The parts of the controllable diffusion module."""

    vae: Vae
    diffusion: ControllableDiffusion
    schedule: Schedule


def restore(restoration: nn.Module, resized: Tensor) -> tuple[Tensor, Tensor | float]:
    """Stage 1: the restored image of a resized one (B, 3, H, W), and the detail that it leaves to
    stage 2, 0 where the network knows none.
    """
    if isinstance(restoration, PlainNet) and restoration.last_detail is not None:
        return cast(tuple[Tensor, Tensor], restoration(resized, detail=True))
    return cast(Tensor, restoration(resized)), 0.0


def generate(
    second: SecondStage,
    settings: Settings,
    start: Tensor,
    noise: Callable[[int, torch.Size], Tensor],
) -> Tensor:
    """Stage 2 from where it starts to the generated image: encode, sample, decode.

    Differentiable, so that few-step students train on the very path of inference.

    Args:
        second: the networks.
        settings: sampler, steps and start.
        start: (B, 3, H, W), about [0, 1], the restored image, see `starting_image`.
        noise: (index of the step, shape of the latents) -> standard normal noise.

    Returns:
        (B, 3, H, W), about [0, 1] and not clipped.
    """
    condition = encode(second.vae, start)
    generated = sample(second, settings, start, condition, noise)
    if settings.residual:
        generated = generated + lost_in_coding(second, start, condition)
    return generated


def starting_image(settings: Settings, restored: Tensor, detail: Tensor | float) -> Tensor:
    """What stage 2 starts from: the restored image, with its detail unless that is added later."""
    return restored if settings.residual else restored + detail


def lost_in_coding(second: SecondStage, start: Tensor, condition: Tensor) -> Tensor:
    """What the autoencoder takes from an image (B, 3, H, W) with latents `condition`."""
    return start - decode(second.vae, condition)


def sample(
    second: SecondStage,
    settings: Settings,
    start: Tensor,
    condition: Tensor,
    noise: Callable[[int, torch.Size], Tensor],
) -> Tensor:
    """`generate` from the latents of its image, `condition` (B, C, h, w), on: sample, decode."""
    shape, dtype = condition.shape, condition.dtype

    def denoise(z: Tensor, t: int) -> Tensor:
        if settings.joint is None:
            output = second.diffusion(z.to(dtype), t, condition).float()
        else:
            side, overlap = (length // latent_factor(second.vae) for length in settings.joint)
            output = averaged(
                lambda a, b: second.diffusion(a.to(dtype), t, b), z, condition, side, overlap
            )
        return second.schedule.epsilon(output, z, t)

    def draw(step: int) -> Tensor:
        return noise(step, shape).to(dtype).float()

    timesteps = timesteps_of(settings.sampler, settings.steps, settings.first_timestep)
    z = draw(0)
    if settings.starts_from_condition:
        z = second.schedule.q_sample(condition.float(), timesteps[0], z)
    z = SAMPLERS[settings.sampler](denoise, z, timesteps, second.schedule, draw)
    return decode(second.vae, z.to(dtype), start)


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

    Raises:
        UsageError: `settings.residual` with a decoder that adds to its image anyway.
    """

    def __init__(
        self,
        restoration: nn.Module,
        second: SecondStage | None,
        settings: Settings,
        identity: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        if settings.residual and second is not None and second.vae.config.get("adds"):
            raise UsageError("residual: the decoder of this model adds to its image already")
        self.restoration, self.second = restoration, second
        self.settings, self.identity, self.device = settings, identity, device
        if second is not None:
            self.parts = nn.ModuleList((second.vae, second.diffusion))
        self.eval().requires_grad_(False).to(device)
        channels_last(self)
        if settings.compile:
            compile_blocks(self)

    @torch.inference_mode()
    def forward(self, windows: Sequence[WindowInput]) -> Tensor:
        """Upscale a batch of windows.

        Returns:
            (B, 3, tile, tile) float32, about [0, 1] and not clipped.
        """
        return next(self.samples(windows, (self.settings.seed,)))

    @property
    def stochastic(self) -> bool:
        """Whether the seed makes a difference."""
        return self.second is not None and self.settings.fidelity < 1

    @torch.inference_mode()
    def samples(self, windows: Sequence[WindowInput], seeds: Iterable[int]) -> Iterator[Tensor]:
        """The images of `forward`, one batch for each seed; stage 1 and the encoder run once."""
        settings = self.settings
        resized = torch.stack([window.resized() for window in windows])
        resized = resized.to(self.device, memory_format=torch.channels_last)
        dtype = PRECISIONS[settings.precision]
        autocast = partial(torch.autocast, self.device.type, dtype, enabled=dtype != torch.float32)
        # autocast holds networks only: consistency and colour at half precision are off by levels
        with autocast():
            restored, detail = restore(self.restoration, resized)
        image = self._agree(project, restored.float().clamp(0, 1), windows).clamp(0, 1)
        if self.stochastic:
            assert self.second is not None
            with autocast():
                start = starting_image(settings, image, detail)
                condition = encode(self.second.vae, start)
                lost = lost_in_coding(self.second, start, condition) if settings.residual else 0.0
            added = detail + lost if settings.residual else 0.0
        for seed in seeds:
            if not self.stochastic:
                yield image
                continue
            with autocast():
                generated = self._generate(start, condition, windows, seed)
            detailed = add_detail(settings, image, (generated + added).float())
            # what is generated is off by far more than what is restored: unlimited, it would ring
            yield self._agree(project_limited, detailed, windows)

    def describe(self) -> Mapping[str, Any]:
        """See `Upscaler`."""
        return {**self.identity, "settings": asdict(self.settings)}

    def _generate(
        self, start: Tensor, condition: Tensor, windows: Sequence[WindowInput], seed: int
    ) -> Tensor:
        # here, because training comes past this file and needs neither the kernels nor numba
        from wsisr_kernels import philox_normal_batch

        assert self.second is not None
        factor = latent_factor(self.second.vae)
        origins = [(window.y // factor, window.x // factor) for window in windows]

        def noise(step: int, shape: torch.Size) -> Tensor:
            channels, height, width = shape[1:]
            return philox_normal_batch(
                seed, step, origins, height, width, channels, str(self.device)
            )

        return sample(self.second, self.settings, start, condition, noise)

    def _agree(
        self, bring: Callable[..., Tensor], images: Tensor, windows: Sequence[WindowInput]
    ) -> Tensor:
        """With soft consistency, the images brought into agreement with their inputs."""
        if self.settings.consistency == "off":
            return images
        agreed = []
        for image, window in zip(images.float(), windows, strict=True):
            rows, columns = window.rows.to(self.device), window.columns.to(self.device)
            agreed.append(bring(image[None], window.lr.to(self.device)[None], rows, columns)[0])
        return torch.stack(agreed)
