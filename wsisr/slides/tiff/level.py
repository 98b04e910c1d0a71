"""The pixels of one TIFF image, decoded piece by piece."""

from __future__ import annotations

import threading

import numpy as np

from wsisr.errors import SlideError
from wsisr.formats import DamagedPieceError
from wsisr.slides.base import RGB, filled
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.cache import TileCache
from wsisr.slides.tiff.decode import decode_piece
from wsisr.slides.tiff.pieces import PieceGrid

LARGE_PIECE = 1 << 22
"""px from which on a piece is always kept: an image stored in one strip, for example."""


class TiffLevel:
    """A `LevelPixels` over a `PieceGrid`.

    name: what errors call the image, e.g. `level 2`. unreadable: where given, pieces that cannot
    be decoded are recorded in it as (name, column, row) and read as background; where None, they
    raise `SlideError`.
    """

    def __init__(
        self,
        source: BytesAt,
        grid: PieceGrid,
        cache: TileCache,
        *,
        name: str,
        background: tuple[int, int, int],
        unreadable: set[tuple[str, int, int]] | None = None,
    ) -> None:
        self.width, self.height = grid.width, grid.height
        self._source, self._grid, self._cache = source, grid, cache
        self._name, self._background = name, background
        self._unreadable = unreadable
        self._local = threading.local()

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """See `LevelPixels.read`."""
        high, wide = self._grid.piece_height, self._grid.piece_width
        out = np.empty((height, width, 3), np.uint8)
        for row in range(y // high, (y + height - 1) // high + 1):
            top, bottom = max(y, row * high), min(y + height, (row + 1) * high)
            for col in range(x // wide, (x + width - 1) // wide + 1):
                left, right = max(x, col * wide), min(x + width, (col + 1) * wide)
                part = out[top - y : bottom - y, left - x : right - x]
                inside = self._grid.inside(row, col)
                piece = self._piece(row, col, keep=part.shape[:2] != inside)
                if piece is None:
                    part[...] = self._background
                else:
                    part[...] = piece[
                        top - row * high : bottom - row * high,
                        left - col * wide : right - col * wide,
                    ]
        return out

    def _piece(self, row: int, col: int, *, keep: bool) -> RGB | None:
        """The pixels of a piece, valid until this thread's next call; None where not stored.

        A piece that a window takes whole is seldom wanted again: it is not kept, and decoded into
        memory used before, for fresh memory costs a third of the decoding.
        """
        if not self._grid.lengths[:, row, col].all():
            return None
        key = (self._name, row, col)
        piece = self._cache.get(key)
        if piece is None:
            try:
                piece = self._decode(row, col, None if keep else self._scratch())
            except SlideError:
                if self._unreadable is None:
                    raise
                self._unreadable.add((self._name, col, row))
                piece = filled(self._grid.piece_width, self._grid.piece_height, self._background)
            if keep or self._grid.piece_height * self._grid.piece_width > LARGE_PIECE:
                self._cache.put(key, piece)
        return piece

    def _scratch(self) -> RGB | None:
        """Memory of a piece for this thread; none for pieces too large to have twice."""
        shape = self._grid.piece_height, self._grid.piece_width, 3
        if shape[0] * shape[1] > LARGE_PIECE:
            return None
        scratch: RGB | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = np.empty(shape, np.uint8)
        return scratch

    def _decode(self, row: int, col: int, scratch: RGB | None) -> RGB:
        grid = self._grid
        places = zip(grid.offsets[:, row, col], grid.lengths[:, row, col], strict=True)
        kind = "tile" if grid.tiled else "strip"
        try:
            planes = [self._source.read(int(offset), int(length)) for offset, length in places]
            return decode_piece(grid, planes, grid.inside(row, col), self._background, scratch)
        except (DamagedPieceError, SlideError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise SlideError(
                f"{self._source.path}: {self._name}, {kind} column {col} row {row} cannot be "
                f"decoded ({reason}); copy the file again, or read on with damaged tiles left blank"
            ) from error
