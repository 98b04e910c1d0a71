"""Keeps the decoded tiles that were used last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

CACHE_BYTES = 64 << 20
"""Decoded tiles that an open slide keeps unless told otherwise."""


class TileCache:
    """Keeps decoded tiles up to a number of bytes; the longest unused leave first. Thread-safe.

    One tile larger than the bound is kept alone, so that a file stored in a single piece is not
    decoded for every read.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._tiles: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The bytes held."""
        return self._bytes

    def get(self, key: Hashable) -> NDArray[np.uint8] | None:
        """Gives a tile, or None where it is not kept."""
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: NDArray[np.uint8]) -> None:
        """Keeps a tile, which must not be written to afterwards."""
        with self._lock:
            old = self._tiles.pop(key, None)
            self._bytes += tile.nbytes - (0 if old is None else old.nbytes)
            self._tiles[key] = tile
            while self._bytes > self._max_bytes and len(self._tiles) > 1:
                self._bytes -= self._tiles.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Lets go of all tiles."""
        with self._lock:
            self._tiles.clear()
            self._bytes = 0
