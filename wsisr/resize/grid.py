"""The grid of reduced pixels: how many there are, and what lies under them."""

from __future__ import annotations

import math

SLIVER = 1e-3
"""A last pixel narrower than this share of a pixel is arithmetic noise, and dropped."""


def reduced_size(size: int, factor: float) -> int:
    """Gives the number of reduced pixels that cover a side of an image.

    Args:
        size: the side, in source pixels, 1 or more.
        factor: source pixels that a reduced pixel is wide, 1 or more.

    Returns:
        The count, 1 or more; a last pixel that lies inside only in part counts.
    """
    return max(1, math.ceil(size / factor - SLIVER))


def area_span(start: int, count: int, factor: float, size: int) -> tuple[int, int]:
    """Gives the source pixels that lie under a run of reduced pixels.

    Args:
        start: the first reduced pixel.
        count: how many there are.
        factor: source pixels that a reduced pixel is wide.
        size: the side of the whole source image, in px.

    Returns:
        The first source pixel, and the one behind the last.
    """
    first = math.floor(start * factor)
    return first, min(size, max(first + 1, math.ceil((start + count) * factor)))
