"""Builds the levels of a pyramid while tiles arrive, in any order.

A finished tile is halved into a piece, a quarter of the tile above it; once all pieces of that
tile are there it is finished itself, and so on upwards. What is held is therefore the pieces of
tiles begun and not yet complete, each `tile * tile * 3 / 4` bytes:

- rows of tiles from top to bottom: up to one row of pieces a level, in all `3 * tile * width / 2`
  bytes at most (77 MB for a slide 100,000 px wide), whatever the height;
- Z-order (quadtree order): at most three pieces a level, about 5 MB for any slide.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsisr.pyramid.spec import PyramidSpec

Image = NDArray[np.uint8]
TileAddress = tuple[int, int, int]
"""(level, row, column) of a tile."""

EMPTY, STORED, BLANK = 0, 1, 2
"""States of a tile: not stored yet, stored, or stored as background colour."""


def address_above(address: TileAddress) -> TileAddress:
    """Names the tile of the next level that a tile is a quarter of."""
    level, row, col = address
    return level + 1, row // 2, col // 2


class TileIndex:
    """Where each tile of each level is stored: 13 bytes a tile.

    Attributes:
        state: EMPTY, STORED or BLANK, uint8 (rows, columns) of tiles, one array a level.
        offset: position of the stored bytes, uint64 (rows, columns), one array a level; what it
            is counted from is the format's affair.
        length: length of the stored bytes, uint32 (rows, columns), one array a level.
    """

    def __init__(self, spec: PyramidSpec) -> None:
        grids = [spec.grid(level) for level in range(len(spec.levels))]
        self.state = [np.zeros(grid, np.uint8) for grid in grids]
        self.offset = [np.zeros(grid, np.uint64) for grid in grids]
        self.length = [np.zeros(grid, np.uint32) for grid in grids]

    def put(self, address: TileAddress, state: int, offset: int, length: int) -> None:
        """Records a tile."""
        level, row, col = address
        self.offset[level][row, col] = offset
        self.length[level][row, col] = length
        self.state[level][row, col] = state

    def has(self, address: TileAddress) -> bool:
        """Tells whether the tile is recorded."""
        level, row, col = address
        return bool(self.state[level][row, col] != EMPTY)


class PieceStore:
    """The pieces that wait for their siblings. `None` stands for a piece of pure background."""

    def __init__(self, spec: PyramidSpec) -> None:
        self._spec = spec
        self._waiting: dict[TileAddress, dict[TileAddress, Image | None]] = {}

    def add(
        self, address: TileAddress, piece: Image | None
    ) -> dict[TileAddress, Image | None] | None:
        """Keeps the piece of a tile until its siblings are there.

        Args:
            address: the tile.
            piece: the halved tile, uint8 (rows, columns, samples); None for background.

        Returns:
            All pieces of the tile above by their tiles, once this was the last; else None.
        """
        level, row, col = address
        above = address_above(address)
        pieces = self._waiting.setdefault(above, {})
        pieces[address] = piece
        rows, cols = self._spec.grid(level)
        if len(pieces) < min(2, rows - row // 2 * 2) * min(2, cols - col // 2 * 2):
            return None
        return self._waiting.pop(above)

    def clear(self) -> None:
        """Lets go of everything."""
        self._waiting.clear()


def z_order(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Walks a grid block by block, the order in which the fewest pieces wait.

    Args:
        rows: rows of the grid.
        cols: columns of the grid.

    Yields:
        Every (row, column), each once.
    """
    side = 1
    while side < max(rows, cols):
        side *= 2
    yield from _quarter(0, 0, side, rows, cols)


def _quarter(row: int, col: int, side: int, rows: int, cols: int) -> Iterator[tuple[int, int]]:
    if row >= rows or col >= cols:
        return
    if side == 1:
        yield row, col
        return
    half = side // 2
    for r in (row, row + half):
        for c in (col, col + half):
            yield from _quarter(r, c, half, rows, cols)


def assemble(
    spec: PyramidSpec, address: TileAddress, pieces: dict[TileAddress, Image | None]
) -> Image | None:
    """Puts a tile together from its pieces.

    Args:
        spec: the pyramid.
        address: the tile.
        pieces: its pieces by the tiles that they were made from.

    Returns:
        uint8 (rows, columns, samples); None where all pieces are pure background.
    """
    if all(piece is None for piece in pieces.values()):
        return None
    half = spec.tile // 2
    pixels = np.empty((*spec.tile_shape(*address), spec.samples), np.uint8)
    for (_, row, col), piece in pieces.items():
        y, x = row % 2 * half, col % 2 * half
        part = pixels[y : y + half, x : x + half]
        part[...] = np.asarray(spec.background, np.uint8) if piece is None else piece
    return pixels
