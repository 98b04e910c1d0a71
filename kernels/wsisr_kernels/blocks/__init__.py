"""Whole-number back-projection: blocks of pixels whose rounded mean is a given pixel."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsisr_kernels.blocks import cpu

__all__ = ["fit_blocks"]


def fit_blocks(
    pixels: NDArray[np.uint8], means: NDArray[np.uint8], row0: int = 0, column0: int = 0
) -> None:
    """Changes `pixels` in place, as little as possible, until their block means are `means`.

    The mean of a block of s x s pixels is its exact integer sum over s * s, halves rounded up. A
    block whose mean is right is left alone. Else its sum is brought to the nearer end of the
    interval of right ones: the same amount is added to every pixel, what 0 and 255 cut off is
    shared by the others, and the remainder goes as single levels to pixels spread over the block,
    from a start that is hashed from the block's position, so that no grid arises. The result is
    the least squares one up to that remainder (a projection on a convex set that holds the truth).

    Args:
        pixels: uint8 (h * s, w * s, channels), s >= 1; a view is taken as it is.
        means: uint8 (h, w, channels).
        row0: global row of the first block, for the hash alone.
        column0: global column of the first block.

    Raises:
        ValueError: a shape or type is not as above.
    """
    side = len(pixels) // max(len(means), 1)
    wanted = (
        (means.shape[0] * side, means.shape[1] * side, means.shape[2]) if means.ndim == 3 else ()
    )
    if side < 1 or pixels.shape != wanted:
        raise ValueError(f"pixels {pixels.shape} are not blocks of {means.shape} means")
    if pixels.dtype != np.uint8 or means.dtype != np.uint8:
        raise ValueError("fit_blocks needs uint8 pixels and uint8 means")
    cpu.fit_blocks(pixels, means, side, spread_step(side * side), row0, column0)


def spread_step(count: int) -> int:
    """Finds a step coprime to `count` near its golden section: its multiples visit all of it."""
    step = max(1, round(count * (math.sqrt(5) - 1) / 2))
    while math.gcd(step, count) != 1:
        step += 1
    return step
