"""The fit in plain Python, block by block, as its definition reads; and the mean itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def block_means(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Averages each block: (h * side, w * side, n) -> (h, w, n), halves rounded up."""
    height, width, channels = pixels.shape[0] // side, pixels.shape[1] // side, pixels.shape[2]
    blocks = pixels.astype(np.int64).reshape(height, side, width, side, channels)
    total, area = blocks.sum((1, 3)), side * side
    means: NDArray[np.uint8] = ((2 * total + area) // (2 * area)).astype(np.uint8)
    return means


def fit_blocks(
    pixels: NDArray[np.uint8],
    means: NDArray[np.uint8],
    side: int,
    step: int,
    row0: int,
    column0: int,
) -> None:
    """See `wsisr_kernels.fit_blocks`."""
    area = side * side
    for row, column, channel in np.ndindex(*means.shape):
        block = pixels[
            row * side : (row + 1) * side, column * side : (column + 1) * side, channel
        ].astype(np.int64)
        doubled = 2 * int(means[row, column, channel])
        low, high = (area * (doubled - 1) + 1) // 2, (area * (doubled + 1) + 1) // 2 - 1
        need = max(low - int(block.sum()), 0) or min(high - int(block.sum()), 0)
        flat, limit = block.ravel(), 255 if need > 0 else 0
        order = (start(row0 + row, column0 + column) + step * np.arange(area)) % area
        while need:
            share = abs(need) // int((flat != limit).sum()) or 1
            for place in order:
                given = min(abs(limit - int(flat[place])), share, abs(need))
                flat[place] += given if need > 0 else -given
                need -= given if need > 0 else -given
        pixels[row * side : (row + 1) * side, column * side : (column + 1) * side, channel] = (
            flat.reshape(side, side)
        )


def start(row: int, column: int) -> int:
    """Hashes a block's position to 31 bits, in 64-bit two's complement arithmetic."""
    mixed = (row * 73856093) ^ (column * 19349663)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    mixed = (mixed + 2**63) % 2**64 - 2**63
    return (mixed ^ (mixed >> 16)) & 0x7FFFFFFF
