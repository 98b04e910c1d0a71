"""From finished cells of the window grid to tiles of the pyramid, and the hash of all pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsisr.plan import Rect

Pixels = NDArray[np.uint8]


class TileCutter:
    """Cuts finished cells into the pyramid's tiles; holds the rows that are not yet handed on.

    Cells come row by row of the window grid, left to right; tiles leave as soon as all their
    pixels are there. Rows are hashed from top to bottom when a row of cells is complete.

    Memory: `width * (tile + cell height) * samples` bytes, whatever the height of the output.

    Args:
        region: the part of the grid's pixels that is the output.
        tile: side of the pyramid's tiles in px.
        samples: values a pixel.
    """

    def __init__(self, region: Rect, tile: int, samples: int = 3) -> None:
        self._region, self._tile, self._samples = region, tile, samples
        self._buffer = np.empty((0, region.width, samples), np.uint8)
        self._top = 0  # output row of self._buffer[0]
        self._held = 0  # rows of the buffer in use
        self._hashed = 0
        self._next_row = self._next_column = 0
        self._digest = hashlib.sha256()

    def put(self, x: int, y: int, pixels: Pixels) -> Iterator[tuple[int, int, Pixels]]:
        """Adds a cell and yields (tile row, tile column, pixels) of each tile it completes.

        Args:
            x: the cell's left column on the grid.
            y: the cell's top row on the grid.
            pixels: uint8 (h, w, samples); parts outside the region are dropped.
        """
        left, top = max(x - self._region.x, 0), max(y - self._region.y, 0)
        right = min(x + pixels.shape[1] - self._region.x, self._region.width)
        bottom = min(y + pixels.shape[0] - self._region.y, self._region.height)
        if left >= right or top >= bottom:
            return
        self._grow(bottom)
        row, column = top + self._region.y - y, left + self._region.x - x
        self._buffer[top - self._top : bottom - self._top, left:right] = pixels[
            row : row + bottom - top, column : column + right - left
        ]
        yield from self._complete_tiles(right, bottom)
        if right == self._region.width:
            self._finish_rows(bottom)

    def sha256(self) -> str:
        """Gives the digest of all rows put so far, top to bottom."""
        return self._digest.hexdigest()

    def _grow(self, bottom: int) -> None:
        self._held = max(self._held, bottom - self._top)
        if self._held > len(self._buffer):
            # room for the usual case at once: whole rows of cells beside a rest of tiles
            rows = min(self._held + self._tile, self._region.height - self._top)
            buffer = np.empty((rows, self._region.width, self._samples), np.uint8)
            buffer[: len(self._buffer)] = self._buffer
            self._buffer = buffer

    def _complete_tiles(self, right: int, bottom: int) -> Iterator[tuple[int, int, Pixels]]:
        tile, width, height = self._tile, self._region.width, self._region.height
        row = self._next_row
        while row * tile < height and min((row + 1) * tile, height) <= bottom:
            start = self._next_column if row == self._next_row else 0
            column = start
            while column * tile < width and min((column + 1) * tile, width) <= right:
                rows = slice(row * tile - self._top, min((row + 1) * tile, height) - self._top)
                columns = slice(column * tile, (column + 1) * tile)
                yield row, column, self._buffer[rows, columns].copy()
                column += 1
            if row == self._next_row:
                self._next_column = column
            if column * tile < width:
                return
            row += 1
            self._next_row, self._next_column = row, 0

    def _finish_rows(self, bottom: int) -> None:
        fresh = self._buffer[self._hashed - self._top : bottom - self._top]
        self._digest.update(fresh.data)
        self._hashed = bottom
        keep_from = min(self._next_row * self._tile, bottom)
        done = keep_from - self._top
        # moved down in place: a new array for every row of cells would fragment the heap
        self._buffer[: self._held - done] = self._buffer[done : self._held]
        self._held -= done
        self._top = keep_from
