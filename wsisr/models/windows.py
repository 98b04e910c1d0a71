"""What a model gets for one window, and the simplest model: bicubic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from wsisr.models.consistency import Sampling, resize


@dataclass(frozen=True)
class WindowInput:
    """One window of the slide, ready to be upscaled.

    Attributes:
        x: column of the top-left output pixel on the global grid; the noise is addressed by it.
        y: row of that pixel.
        lr: (3, n, m) float32 in [0, 1], the low-resolution pixels under the window.
        rows: maps between the rows of those and of the window's pixels.
        columns: maps between the columns.
    """

    x: int
    y: int
    lr: Tensor
    rows: Sampling
    columns: Sampling

    def resized(self) -> Tensor:
        """Resizes the input to (3, window, window) float32 in [0, 1] by bicubic weights."""
        return resize(self.lr, self.rows.up, self.columns.up).clamp(0, 1)


class Upscaler(Protocol):
    """Turns a batch of windows into images; a window's pixels depend on that window alone.

    Attributes:
        device: where it computes.
    """

    device: torch.device

    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        """Upscales a batch of windows.

        Args:
            windows: of equal size.

        Returns:
            (B, 3, window, window) float32, about [0, 1], on `device`.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """Tells what makes the pixels, for the output's provenance, in plain JSON values."""
        ...


class Bicubic:
    """The baseline, cubic interpolation (a = -0.75) and nothing else; an `Upscaler`."""

    device = torch.device("cpu")

    def __call__(self, windows: Sequence[WindowInput]) -> Tensor:
        """See `Upscaler`."""
        return torch.stack([window.resized() for window in windows])

    def describe(self) -> Mapping[str, Any]:
        """See `Upscaler`."""
        return {"model": "bicubic"}
