"""The dual-stage model at inference.

Every window is computed from its own pixels alone, with noise addressed by global position, so a
window has the same pixels whatever it is computed beside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from wsisr.errors import OptionError
from wsisr.models.compilation import compile_blocks
from wsisr.models.consistency import project, project_limited
from wsisr.models.networks import channels_last, latent_factor
from wsisr.models.pipeline import Agreement, NoiseField, SecondStage, run_stages
from wsisr.models.placement import Placement, choose_placement, place
from wsisr.models.precision import PRECISIONS
from wsisr.models.settings import Settings
from wsisr.models.windows import WindowInput


class DualStage(nn.Module):
    """A loaded model with its settings; an `Upscaler`.

    Args:
        restoration: stage 1.
        second: stage 2, or None for a model (or a fidelity) without it.
        settings: how to run it.
        identity: name and weight hashes, for the provenance.
        device: where it computes.
        placement: where its weights are kept; None decides by the memory of the device.

    Raises:
        OptionError: it is to be compiled, and its weights do not fit the device.
    """

    def __init__(
        self,
        restoration: nn.Module,
        second: SecondStage | None,
        settings: Settings,
        identity: Mapping[str, Any],
        device: torch.device,
        placement: Placement | None = None,
    ) -> None:
        super().__init__()
        self.restoration, self.second = restoration, second
        self.settings, self.identity, self.device = settings, identity, device
        if second is not None:
            self.parts = nn.ModuleList((second.vae, second.diffusion))
        channels_last(self.eval().requires_grad_(False))
        self.placement = placement or choose_placement(self, settings.precision, device)
        if self.placement == "offload" and settings.compile:
            rule = f"the model does not fit the memory of {device}; leave <compile> out"
            raise OptionError("compile", None, rule)
        place(self, self.placement, device)
        if settings.compile:
            compile_blocks(self)

    @torch.inference_mode()
    def forward(self, windows: Sequence[WindowInput]) -> Tensor:
        """Upscales a batch of windows.

        Args:
            windows: of equal size.

        Returns:
            (B, 3, window, window) float32, about [0, 1] and not clipped.
        """
        return next(self.samples(windows, (self.settings.seed,)))

    @property
    def stochastic(self) -> bool:
        """Whether the seed makes a difference."""
        return self.second is not None and self.settings.fidelity < 1

    @torch.inference_mode()
    def samples(self, windows: Sequence[WindowInput], seeds: Iterable[int]) -> Iterator[Tensor]:
        """Yields what `forward` gives for each seed; stage 1 and the encoder run once.

        Args:
            windows: of equal size.
            seeds: of the noise fields.
        """
        resized = torch.stack([window.resized() for window in windows])
        resized = resized.to(self.device, memory_format=torch.channels_last)
        noises = (self._noise_field(windows, seed) for seed in seeds)
        _, images = self.run(resized, self._agreement(windows), noises)
        yield from images

    def run(
        self, resized: Tensor, agree: Agreement | None, noises: Iterable[NoiseField]
    ) -> tuple[Tensor, Iterator[Tensor]]:
        """Runs both stages on resized windows; arguments and results are those of `run_stages`."""
        dtype = PRECISIONS[self.settings.precision]
        return run_stages(
            self.restoration, self.second, self.settings, resized, agree, noises, dtype=dtype
        )

    def describe(self) -> Mapping[str, Any]:
        """See `Upscaler`."""
        return {**self.identity, "settings": asdict(self.settings)}

    def _noise_field(self, windows: Sequence[WindowInput], seed: int) -> NoiseField:
        """Makes the noise of windows, addressed by their places on the global grid."""

        def noise(step: int, shape: torch.Size) -> Tensor:
            # here, because training comes past this file and needs neither the kernels nor numba
            from wsisr_kernels import philox_normal_batch

            assert self.second is not None
            factor = latent_factor(self.second.vae)
            origins = [(window.y // factor, window.x // factor) for window in windows]
            channels, height, width = shape[1:]
            return philox_normal_batch(
                seed, step, origins, height, width, channels, str(self.device)
            )

        return noise

    def _agreement(self, windows: Sequence[WindowInput]) -> Agreement | None:
        """Makes what brings images into agreement with their inputs, or None if that is off."""
        if self.settings.consistency == "off":
            return None

        def agree(images: Tensor, *, limited: bool) -> Tensor:
            bring = project_limited if limited else project
            agreed = []
            for image, window in zip(images, windows, strict=True):
                rows, columns = window.rows.to(self.device), window.columns.to(self.device)
                agreed.append(bring(image[None], window.lr.to(self.device)[None], rows, columns)[0])
            return torch.stack(agreed)

        return agree
