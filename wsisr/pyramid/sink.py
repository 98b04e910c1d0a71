"""Says what a file format offers to the streaming writer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisr.pyramid.levels import TileAddress, TileIndex


class TileSink(Protocol):
    """A partial output that takes encoded tiles and becomes the output when all are there.

    `encode` and `read` run in several threads at once; all else is called by one thread at a time.
    Where the disk refuses, every method but `encode` ends in an OutputError.
    """

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encodes a tile.

        Args:
            pixels: uint8 (rows, columns, samples), smaller than the tile size at far edges.

        Returns:
            The bytes to store.
        """
        ...

    def append(self, address: TileAddress, data: bytes) -> tuple[int, int]:
        """Stores an encoded tile.

        Args:
            address: the tile.
            data: its bytes, of `encode`.

        Returns:
            (offset, length) for the index.
        """
        ...

    def append_blank(self, address: TileAddress) -> tuple[int, int, int]:
        """Stores a tile of background colour.

        Args:
            address: the tile.

        Returns:
            (offset, length, CRC-32) for the index and the journal.
        """
        ...

    def read(self, address: TileAddress, offset: int, length: int) -> bytes:
        """Reads the stored bytes of a tile.

        Args:
            address: the tile.
            offset: position, as `append` gave it.
            length: how many bytes to read.

        Returns:
            The bytes, fewer where they end early.
        """
        ...

    def restore(self, index: TileIndex) -> None:
        """Goes on from a partial output: keeps the tiles of `index`, drops what lies behind."""
        ...

    def sync(self) -> None:
        """Has the disk hold what was appended so far; may run beside `append`."""
        ...

    def finish(self, index: TileIndex, provenance: Mapping[str, Any]) -> None:
        """Writes what makes the partial output complete and renames it to the output.

        Args:
            index: where every tile of every level is stored.
            provenance: the final record of what made the pixels.
        """
        ...

    def close(self) -> None:
        """Closes what is open and keeps the partial output."""
        ...

    def discard(self) -> None:
        """Closes what is open and removes the partial output."""
        ...
