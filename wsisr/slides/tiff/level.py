"""Reads the pixels of one TIFF image, decoded piece by piece."""

from __future__ import annotations

import threading

import numpy as np

from wsisr.errors import SlideError
from wsisr.formats import DamagedPieceError
from wsisr.slides.base import RGB, filled
from wsisr.slides.cache import TileCache
from wsisr.slides.grid import parts_of
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.decode import decode_piece
from wsisr.slides.tiff.pieces import PieceGrid

LARGE_PIECE = 1 << 22
"""Pixels from which on a piece is always kept: an image stored in one strip, for example."""


class TiffLevel:
    """Reads a `PieceGrid` as a `LevelPixels`.

    Errors call the image by the name given, e.g. `level 2`. Where a set of unreadable places is
    given, pieces that cannot be decoded are recorded in it as (name, column, row) and read as
    background; without one they are errors.
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
        """Reads a region, see `LevelPixels.read`."""
        wide, high = self._grid.piece_width, self._grid.piece_height
        out = np.empty((height, width, 3), np.uint8)
        for part in parts_of(x, y, width, height, piece=(wide, high)):
            inside = self._grid.inside(part.row, part.column)
            taken_whole = (part.height, part.width) == inside
            piece = self._piece(part.row, part.column, keep=not taken_whole)
            out[part.within(x, y)] = (
                self._background
                if piece is None
                else piece[part.within(part.column * wide, part.row * high)]
            )
        return out

    def _piece(self, row: int, col: int, *, keep: bool) -> RGB | None:
        """Gives a piece, valid until this thread's next call; None where it is not stored.

        A piece that a region takes whole is seldom wanted again: it is not kept, and decoded into
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
        """Gives this thread's memory for a piece; None for pieces too large to have twice."""
        shape = self._grid.piece_height, self._grid.piece_width, 3
        if shape[0] * shape[1] > LARGE_PIECE:
            return None
        scratch: RGB | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = np.empty(shape, np.uint8)
        return scratch

    def _decode(self, row: int, col: int, scratch: RGB | None) -> RGB:
        """Decodes a piece, and names it where that fails."""
        grid = self._grid
        stored = zip(grid.offsets[:, row, col], grid.lengths[:, row, col], strict=True)
        kind = "tile" if grid.tiled else "strip"
        try:
            planes = [self._source.read(int(offset), int(length)) for offset, length in stored]
            return decode_piece(grid, planes, grid.inside(row, col), self._background, scratch)
        except (DamagedPieceError, SlideError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise SlideError(
                f"{self._source.path}: {self._name}, {kind} column {col} row {row} cannot be "
                f"decoded ({reason}); copy the file again, or read on with damaged tiles left blank"
            ) from error
