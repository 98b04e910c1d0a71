"""Going on from an interrupted run: what is missing, and whether it is the same run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsisr.plan import Plan, Rect, Window
from wsisr.pyramid import PyramidSpec, PyramidWriter


@dataclass(frozen=True)
class Missing:
    """What of a pyramid an interrupted run has left to do.

    Attributes:
        region: the pyramid's place on the window grid, in output px.
        tile: side of the pyramid's tiles in px.
        done: bool (rows, columns), the tiles that are written.
        block: side in px of the blocks of pixels that must be made in one run; 1 where there are
            none.
    """

    region: Rect
    tile: int
    done: NDArray[np.bool_]
    block: int = 1

    @property
    def rows_done(self) -> int:
        """Counts the rows of tiles, from the top, that are written whole.

        The last row never counts, nor does half a block.
        """
        complete = np.all(self.done[:-1], axis=1, keepdims=True)
        rows = int(np.argmin(complete)) if not complete.all() else len(complete)
        while rows * self.tile % self.block:
            rows -= 1
        return rows

    @property
    def rows_left(self) -> range:
        """Gives the rows of tiles from the first to the last that are not written whole.

        They begin and end on blocks; at least one row is among them.
        """
        first = self.rows_done
        missing = np.flatnonzero(~self.done.all(axis=1))
        end = max(first, int(missing[-1]) if len(missing) else first) + 1
        while end < len(self.done) and end * self.tile % self.block:
            end += 1
        return range(first, end)

    @property
    def tiles_done(self) -> int:
        """Counts the tiles that are written."""
        return int(np.count_nonzero(self.done))

    def needs(self, window: Window, side: int) -> bool:
        """Tells whether a window, or a block on it, reaches into a tile that is not written."""
        rim = self.block - 1
        rows, columns = (
            slice(max(0, (start - rim) // self.tile), max(0, -(-(start + side + rim) // self.tile)))
            for start in (window.y - self.region.y, window.x - self.region.x)
        )
        return not self.done[rows, columns].all()

    def remaining(self, plan: Plan) -> Plan:
        """Gives a plan without the rows of pixels that are written whole, above and below."""
        region, rows = plan.region, self.rows_left
        top, bottom = rows.start * self.tile, min(rows.stop * self.tile, region.height)
        rest = Rect(region.x, region.y + top, region.width, bottom - top)
        return replace(plan, region=rest)

    def within(self, rows: range) -> Missing:
        """Gives what is missing in some rows of tiles."""
        done = self.done.copy()
        done[: rows.start] = done[rows.stop :] = True
        return replace(self, done=done)


def find_missing(writers: Sequence[PyramidWriter], plan: Plan, block: int) -> Missing:
    """Finds what writers of one grid, which may go on from an interrupted run, lack."""
    done = np.logical_and.reduce([written_tiles(writer) for writer in writers])
    return Missing(plan.region, writers[0].spec.tile, done, block)


def written_tiles(writer: PyramidWriter) -> NDArray[np.bool_]:
    """Gives bool (rows, columns): the tiles that an interrupted run has written."""
    rows, columns = writer.spec.grid(0)
    done = [[writer.done(row, column) for column in range(columns)] for row in range(rows)]
    return np.array(done, bool)


def fingerprint(spec: PyramidSpec) -> str:
    """Gives a digest of what makes the pixels: an unfinished run goes on only if it is the same."""
    made_by = json.dumps(dict(spec.provenance), sort_keys=True)
    return hashlib.sha256(made_by.encode()).hexdigest()
