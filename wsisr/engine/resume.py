"""TODO-DOC"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import ModelError, UsageError
from wsisr.plan import Plan, Rect, Window
from wsisr.pyramid import PyramidSpec, PyramidWriter


@dataclass(frozen=True)
class Missing:
    """What of a pyramid an interrupted run has left to do.

    Attributes:
        region: the pyramid's place on the window grid, output px.
        tile: side of the pyramid's tiles.
        done: bool (rows, columns) of tiles.
        block: side of blocks of pixels that must be made in one run; 1 where there are none.
    """

    region: Rect
    tile: int
    done: NDArray[np.bool_]
    block: int = 1

    @property
    def rows_done(self) -> int:
        """Rows of tiles, from the top, that are written whole; never the last, nor half a block."""
        whole = np.all(self.done[:-1], axis=1, keepdims=True)
        rows = int(np.argmin(whole)) if not whole.all() else len(whole)
        while rows * self.tile % self.block:
            rows -= 1
        return rows

    def needs(self, window: Window, side: int) -> bool:
        """Whether a window of that side, or a block on it, reaches into a tile not written."""
        rim = self.block - 1
        rows, columns = (
            slice(max(0, (start - rim) // self.tile), max(0, -(-(start + side + rim) // self.tile)))
            for start in (window.y - self.region.y, window.x - self.region.x)
        )
        return not self.done[rows, columns].all()


def fingerprint(spec: PyramidSpec) -> str:
    """What makes the pixels, as a short text: an unfinished run goes on only if it is the same."""
    made_by = json.dumps(dict(spec.provenance), sort_keys=True)
    return hashlib.sha256(made_by.encode()).hexdigest()


def discard_after_mistake(
    writer: PyramidWriter,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Leave nothing of a run that would only fail again."""
    if isinstance(error, (ModelError, UsageError)):
        writer.abort(keep=False)


def find_missing(writers: Sequence[PyramidWriter], plan: Plan, block: int) -> Missing:
    """What writers of one grid, which may go on from an interrupted run, lack; see `Missing`."""
    done = np.logical_and.reduce([done_tiles(writer) for writer in writers])
    return Missing(plan.region, writers[0].spec.tile, done, block)


def done_tiles(writer: PyramidWriter) -> NDArray[np.bool_]:
    """Bool (rows, columns): the tiles that an interrupted run has written."""
    rows, columns = writer.spec.grid(0)
    done = [[writer.done(row, column) for column in range(columns)] for row in range(rows)]
    return np.array(done, bool)


def remaining(plan: Plan, rows: int) -> Plan:
    """The plan without the first `rows` rows of output pixels."""
    region = plan.region
    return replace(plan, region=Rect(region.x, region.y + rows, region.width, region.height - rows))
