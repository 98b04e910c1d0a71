"""The writer of an output that is complete already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.closing import Closing
from wsisr.errors import UsageError
from wsisr.pyramid.resume import SoundTile
from wsisr.pyramid.spec import PyramidSpec


class FinishedWriter(Closing):
    """A `PyramidWriter` with nothing left to do: a run before was killed at its very end.

    Args:
        spec: the pyramid.
    """

    busy_seconds = 0.0

    def __init__(self, spec: PyramidSpec) -> None:
        self.spec = spec

    def write_tile(self, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """Refuses the tile, which is there."""
        raise UsageError(f"tile ({row}, {col}) was given before; give each tile once")

    def write_encoded(self, row: int, col: int, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """Refuses the tile, which is there."""
        self.write_tile(row, col, pixels)

    def write_blank(self, row: int, col: int) -> None:
        """Refuses the tile, which is there."""
        raise UsageError(f"tile ({row}, {col}) was given before; give each tile once")

    def adopt(self, tile: SoundTile) -> None:
        """Leaves the tile, which is there."""

    def done(self, row: int, col: int) -> bool:
        """Tells that the tile is there."""
        return True

    def finish(self, provenance: Mapping[str, Any] | None = None) -> None:
        """Has nothing to do."""

    def leave(self) -> None:
        """Has nothing to do."""

    def abort(self, keep: bool) -> None:
        """Has nothing to undo."""

    def close(self) -> None:
        """Has nothing open."""
