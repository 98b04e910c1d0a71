"""The way of a window through both stages, for inference and for training alike.

    restore, bring into agreement with the input, encode, sample, decode, fix colours,
    mix by fidelity, bring into agreement with the input again

Histo-Diffusion 2024, figure 9. All of it is differentiable, so that few-step students train on the
very path of inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from wsisr.models.colour import COLOR_FIXES
from wsisr.models.joint import averaged
from wsisr.models.light import PlainLayers
from wsisr.models.networks import decode, encode, latent_factor
from wsisr.models.sampling import SAMPLERS, Schedule, timesteps_of
from wsisr.models.settings import Settings

if TYPE_CHECKING:
    from wsisr.models.networks import ControllableDiffusion, Vae

NoiseField = Callable[[int, torch.Size], Tensor]
"""(index of the step, shape of the latents) -> standard normal noise; index 0 is the start."""


class Agreement(Protocol):
    """Brings images into agreement with the low-resolution images that they were made from."""

    def __call__(self, images: Tensor, *, limited: bool) -> Tensor:
        """Projects a batch of images.

        Args:
            images: (n B, 3, H, W) float32 of B inputs, one batch behind the other.
            limited: whether to project as `project_limited` does, without ringing, and not as
                `project` does.

        Returns:
            (n B, 3, H, W) float32, not clipped.
        """
        ...


@dataclass(frozen=True)
class SecondStage:
    """The parts of the controllable diffusion module.

    Attributes:
        vae: the autoencoder.
        diffusion: UNet, ControlNet and the blank prompt's embedding.
        schedule: how noise grows with the timestep.
    """

    vae: Vae
    diffusion: ControllableDiffusion
    schedule: Schedule


def run_stages(
    restoration: nn.Module,
    second: SecondStage | None,
    settings: Settings,
    resized: Tensor,
    agree: Agreement | None,
    noises: Iterable[NoiseField],
    *,
    dtype: torch.dtype | None = None,
    repeats: int = 1,
    detach: bool = False,
) -> tuple[Tensor, Iterator[Tensor]]:
    """Restores a batch of windows and generates images of it.

    Stage 1 runs at once. Stage 2 runs when the images are asked for; its encoder runs once for all
    of them.

    Args:
        restoration: stage 1.
        second: stage 2; None to give the restored images only.
        settings: sampler, start, fidelity, colour fix and joint windows.
        resized: (B, 3, H, W) float32 in [0, 1], the inputs resized to the target size.
        agree: how images are brought into agreement with the inputs; None leaves them as they are.
        noises: one field of noise for each batch of images wanted.
        dtype: what the networks compute in; None leaves autocast as the caller has set it.
        repeats: images generated of each window from one field, one batch behind the other.
        detach: keep gradients of the generated images from the restored image, so that its own
            loss alone says what that should be; its detail learns from them.

    Returns:
        The restored images (B, 3, H, W) float32 in [0, 1], and for each field of noise the
        finished images (repeats B, 3, H, W) float32, about [0, 1] and not clipped.
    """
    networks = partial(_networks, resized.device, dtype)
    with networks():
        output, detail = _restore(restoration, resized)
    with _single_precision(resized.device):
        image = output.float().clamp(0, 1)
        restored = image if agree is None else agree(image, limited=False).clamp(0, 1)
    image = restored.detach() if detach else restored
    if second is None or settings.fidelity >= 1:
        return restored, (repeat(image, repeats) for _ in noises)
    start, image = (repeat(each, repeats) for each in (image + detail, image))
    return restored, _generate(second, settings, start, image, agree, noises, networks)


def repeat(batch: Tensor, count: int) -> Tensor:
    """Lays a batch (B, ...) so many times one behind the other: (count B, ...)."""
    return batch if count == 1 else batch.repeat(count, *(1,) * (batch.ndim - 1))


def _networks(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Lets networks compute in `dtype`, or as the caller has set it where that is None."""
    if dtype is None:
        return nullcontext()
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def _single_precision(device: torch.device) -> AbstractContextManager[object]:
    """Suspends autocast: at half precision consistency and colour are off by whole levels."""
    return torch.autocast(device.type, enabled=False)


def _restore(restoration: nn.Module, resized: Tensor) -> tuple[Tensor, Tensor | float]:
    """Runs stage 1: the image, and the detail that it leaves to stage 2, 0 if it knows none."""
    if isinstance(restoration, PlainLayers) and restoration.last_detail is not None:
        return cast(tuple[Tensor, Tensor], restoration(resized, detail=True))
    return cast(Tensor, restoration(resized)), 0.0


def _generate(
    second: SecondStage,
    settings: Settings,
    start: Tensor,
    image: Tensor,
    agree: Agreement | None,
    noises: Iterable[NoiseField],
    networks: Callable[[], AbstractContextManager[object]],
) -> Iterator[Tensor]:
    """Yields the finished images of each field of noise.

    Args:
        second: stage 2.
        settings: see `run_stages`.
        start: (B, 3, H, W), what stage 2 starts from: the restored images with their detail.
        image: (B, 3, H, W) float32 in [0, 1], the restored images.
        agree: see `run_stages`.
        noises: see `run_stages`.
        networks: makes the context in which networks run.
    """
    with networks():
        condition = encode(second.vae, start)
    for noise in noises:
        with networks():
            generated = sample(second, settings, start, condition, noise)
        with _single_precision(image.device):
            finished = add_detail(settings, image, generated.float())
            if agree is not None:
                # generated images are off by far more than restored ones and would ring unlimited
                finished = agree(finished, limited=True)
        yield finished


def sample(
    second: SecondStage,
    settings: Settings,
    start: Tensor,
    condition: Tensor,
    noise: NoiseField,
) -> Tensor:
    """Samples latents and decodes them.

    Args:
        second: stage 2.
        settings: sampler, steps, start and joint windows.
        start: (B, 3, H, W) about [0, 1], what stage 2 starts from; some decoders look at it.
        condition: (B, C, h, w), the latents of `start`.
        noise: the field of noise.

    Returns:
        (B, 3, H, W), about [0, 1] and not clipped.
    """
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
    """Fixes the colours and mixes in the wanted share of generated detail.

    Args:
        settings: colour fix and fidelity.
        restored: (B, 3, H, W) float32.
        generated: (B, 3, H, W) float32.

    Returns:
        (B, 3, H, W), not clipped and not yet in agreement with the input.
    """
    if settings.color_fix != "none":
        generated = COLOR_FIXES[settings.color_fix](generated, restored)
    return restored + (1 - settings.fidelity) * (generated - restored)
