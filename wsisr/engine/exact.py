"""Exact consistency: the finished bytes, averaged again, are the bytes of the input.

The average of a low-resolution pixel's area is the exact integer sum of its s x s output pixels
over s * s, halves rounded up. Blocks are fitted (`wsisr_kernels.fit_blocks`) where cells are
finished: after blending, so that glass, tissue and overlaps all agree. A cell must then hold whole
blocks, so the windows' distance is made a multiple of the scale; slide, region and cells all start
and end on the input's pixels, and no block needs two cells.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError
from wsisr.plan import LATENT_PX

if TYPE_CHECKING:
    from wsisr.engine.blend import Cell


def check_exact(scale: float, lossless: bool) -> int:
    """Checks that exact consistency can be kept.

    Args:
        scale: output px for each input px.
        lossless: whether the output's coding keeps every byte.

    Returns:
        The scale as a whole number.

    Raises:
        OptionError: the scale is not whole, or the output's coding would change the bytes.
    """
    if scale != round(scale):
        raise OptionError(
            "consistency",
            "exact",
            f"needs a whole scale, not {scale:g}; give <scale> {max(2, round(scale))}, or "
            "<consistency> soft",
        )
    if not lossless:
        raise OptionError(
            "consistency",
            "exact",
            "a lossy output would undo it; give <compression> deflate or zstd, or an .ome.zarr",
        )
    return round(scale)


def aligned_overlap(window: int, overlap: int, scale: int) -> int:
    """Finds the least overlap with which windows are whole input pixels apart.

    Args:
        window: side of the windows in output px.
        overlap: the least that is wanted, in output px.
        scale: output px for each input px.

    Raises:
        OptionError: more than half the window would be shared.
    """
    unit = math.lcm(LATENT_PX, scale)
    stride = (window - overlap) // unit * unit
    if stride < (window + 1) // 2:
        raise OptionError(
            "consistency",
            "exact",
            f"no windows of <window> {window} lie a multiple of {unit} px apart with at least "
            f"{overlap} and at most {window // 2} px shared; give a larger <window>",
        )
    return window - stride


def fit_cell(cell: Cell, lr: NDArray[np.uint8], left: int, top: int, scale: int) -> None:
    """Brings a finished cell into agreement with the input, in place.

    Args:
        cell: uint8, starting and ending on input pixels.
        lr: uint8 (n, m, 3) of the input, at least what lies under the cell.
        left: input column of the first of them.
        top: input row of the first of them.
        scale: output px for each input px.
    """
    from wsisr_kernels import fit_blocks

    column, row = cell.x // scale, cell.y // scale
    height, width = (length // scale for length in cell.pixels.shape[:2])
    under = lr[row - top : row - top + height, column - left : column - left + width]
    fit_blocks(cell.pixels, under, row, column)
