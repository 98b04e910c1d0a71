"""What a file format offers to the streaming writer."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wsisr.pyramid.levels import Place, TileIndex


class TileSink(Protocol):
    """A partial output that takes encoded tiles and becomes the output when all are there.

    `encode` runs in several threads at once; all else is called by one thread at a time.
    """

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encode a tile, uint8 (rows, columns, 3), smaller than the tile size at far edges."""
        ...

    def append(self, place: Place, data: bytes) -> tuple[int, int]:
        """Store an encoded tile; its (offset, length) for the index."""
        ...

    def append_blank(self, place: Place) -> tuple[int, int, int]:
        """Store a tile of background colour; its (offset, length, CRC-32) for the index."""
        ...

    def read(self, place: Place, offset: int, length: int) -> bytes:
        """The stored bytes of a tile, fewer where they end early. Raises OutputError."""
        ...

    def restore(self, index: TileIndex) -> None:
        """Go on from a partial output: keep the tiles of `index`, drop what lies behind them."""
        ...

    def sync(self) -> None:
        """Make durable what was appended so far; may run beside `append`."""
        ...

    def finish(self, index: TileIndex) -> None:
        """Write what makes the partial output complete and rename it to the output."""
        ...

    def close(self) -> None:
        """Close what is open and keep the partial output."""
        ...

    def discard(self) -> None:
        """Close what is open and remove the partial output."""
        ...
