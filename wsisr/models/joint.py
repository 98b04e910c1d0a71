"""Joint sampling: a block larger than the model's window, its noise predictions averaged.

At every step each window of the block predicts the noise of its part, and where windows overlap
the predictions are averaged (Bar-Tal et al. 2023), so that they cannot drift apart over the steps.
A block is to the engine what a window is otherwise: it lies on the global grid and has a fixed
context, so its pixels do not depend on what is computed beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

WINDOWS = 2
"""Windows along a side of a block."""

NoisePredictor: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""(noisy latents, condition) of some windows -> what the network predicts, of the same shape."""


def block_side(side: int, overlap: int) -> int:
    """Gives the side of a block of `WINDOWS` by `WINDOWS` windows.

    Args:
        side: of a window, px.
        overlap: that neighbouring windows share, px.

    Returns:
        The side in px.
    """
    return WINDOWS * side - (WINDOWS - 1) * overlap


def averaged(
    predict: NoisePredictor, z: Tensor, condition: Tensor, side: int, overlap: int
) -> Tensor:
    """Predicts a block by its windows.

    Args:
        predict: the network.
        z: (B, C, h, w) noisy latents of blocks.
        condition: (B, C, h, w) latents of the restored blocks.
        side: of the windows, in latents; with `overlap` they fill h and w.
        overlap: of the windows, in latents.

    Returns:
        (B, C, h, w) float32; weights are symmetric and sum to one.
    """
    import torch

    height, width = z.shape[2:]
    rows, columns = (range(0, n - side + 1, side - overlap) for n in (height, width))
    total = torch.zeros_like(z, dtype=torch.float32)
    for row in rows:
        for column in columns:
            part = (..., slice(row, row + side), slice(column, column + side))
            output = predict(z[part], condition[part]).float()
            weight = (
                _weights(side, overlap, row > 0, row + side < height)[:, None]
                * _weights(side, overlap, column > 0, column + side < width)[None]
            ).to(output.device)
            total[part] += weight * output
    return total


def _weights(side: int, overlap: int, leads: bool, trails: bool) -> Tensor:
    """Gives the weights (side,) of a window along an axis, with or without neighbours there."""
    import torch

    from wsisr_kernels import blend_ramp

    ramp = torch.from_numpy(blend_ramp(overlap))
    weights = torch.ones(side)
    if leads:
        weights[:overlap] = ramp
    if trails:
        weights[side - overlap :] = 1 - ramp
    return weights
