"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.blend import Cell, CellBlender
from wsisr.engine.stream import Stopwatch
from wsisr.engine.tiles import Band
from wsisr.plan import Plan, Window
from wsisr.pyramid import PyramidWriter


class Layer:
    """The last steps of the stream for one output.

    Args:
        plan: the windows that come, in its order.
        writer: takes the tiles; those that it has already are left out.
        rows_done: rows of tiles above the plan's region.
    """

    def __init__(self, plan: Plan, writer: PyramidWriter, rows_done: int = 0) -> None:
        self._writer, self._rows_done = writer, rows_done
        self._samples = writer.spec.samples
        self._blender = CellBlender(plan)
        self._band = Band(plan.region, writer.spec.tile, self._samples)

    def push(
        self,
        window: Window,
        pixels: NDArray[Any],
        clock: Stopwatch,
        finish: Callable[[Cell], None] | None = None,
    ) -> None:
        """Take the next window, (tile, tile, 3); a map of one channel stands in all three.

        finish: called with every finished cell, which it may change in place.
        """
        with clock("blending"):
            cell = self._blender.push(window.row, window.column, pixels)
            if cell is None:
                return
            if finish is not None:
                finish(cell)
            finished = np.ascontiguousarray(cell.pixels[..., : self._samples])
            tiles = list(self._band.put(cell.x, cell.y, finished))
        with clock("waiting to encode"):
            for row, column, tile in tiles:
                self._write(self._rows_done + row, column, tile)

    def sha256(self) -> str:
        """Digest of all rows so far, top to bottom."""
        return self._band.sha256()

    def _write(self, row: int, column: int, tile: NDArray[np.uint8]) -> None:
        if self._writer.done(row, column):
            return
        if (tile == self._writer.spec.background).all():
            self._writer.write_blank(row, column)
        else:
            self._writer.write_tile(row, column, tile)
