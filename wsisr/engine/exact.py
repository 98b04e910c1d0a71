"""Exact consistency: the finished bytes, averaged again, are the bytes of the input.

The average of a low-resolution pixel's area is the exact integer sum of its s x s output pixels
over s * s, halves rounded up. Blocks are fitted (`wsisr_kernels.fit_blocks`) where cells are
finished: after blending, so that glass, tissue and overlaps all agree. A cell must then hold whole
blocks, so the windows' distance is made a multiple of the scale; slide, region and cells all start
and end on the input's pixels, and no block needs two cells.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.blend import Cell
from wsisr.errors import UsageError
from wsisr_kernels import fit_blocks

LATENT_PX = 8
"""Windows start on this grid, that of the noise."""


def check_exact(scale: float, lossless: bool) -> int:
    """The scale as a whole number.

    Raises:
        UsageError: it is none, or the output's coding would change the bytes.
    """
    if scale != round(scale):
        raise UsageError(
            f"--consistency exact: needs a whole scale, not {scale:g}; give --scale "
            f"{max(2, round(scale))}, or --consistency soft"
        )
    if not lossless:
        raise UsageError(
            "--consistency exact: a lossy output would undo it; give --compression deflate or "
            "zstd, or an .ome.zarr"
        )
    return round(scale)


def aligned_overlap(window: int, overlap: int, scale: int) -> int:
    """The least overlap, from `overlap` on, with which windows are whole input pixels apart.

    Raises:
        UsageError: more than half the window would be shared.
    """
    unit = math.lcm(LATENT_PX, scale)
    stride = (window - overlap) // unit * unit
    if stride < (window + 1) // 2:
        raise UsageError(
            f"--consistency exact: no windows of --window {window} lie a multiple of {unit} px apart "
            f"with at least {overlap} and at most {window // 2} px shared; give a larger --window"
        )
    return window - stride


def fit_cell(cell: Cell, lr: NDArray[np.uint8], left: int, top: int, scale: int) -> None:
    """Bring a finished cell into agreement with the input, in place.

    Args:
        cell: uint8, starting and ending on input pixels.
        lr: uint8 (n, m, 3) of the input, at least what lies under the cell.
        left, top: its first pixel.
        scale: output px for each input px.
    """
    column, row = cell.x // scale, cell.y // scale
    height, width = (length // scale for length in cell.pixels.shape[:2])
    under = lr[row - top : row - top + height, column - left : column - left + width]
    fit_blocks(cell.pixels, under, row, column)
