"""Building the levels of a pyramid while tiles arrive, in any order.

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
Place = tuple[int, int, int]
"""(level, row, column) of a tile."""

EMPTY, STORED, BLANK = 0, 1, 2


class TileIndex:
    """Where each tile of each level is stored: 13 bytes a tile.

    state: EMPTY, STORED or BLANK (background colour). offset and length are in bytes and mean
    what the format wants them to mean. Arrays are (rows, columns) of tiles, one a level.
    """

    def __init__(self, spec: PyramidSpec) -> None:
        grids = [spec.grid(level) for level in range(len(spec.levels))]
        self.state = [np.zeros(grid, np.uint8) for grid in grids]
        self.offset = [np.zeros(grid, np.uint64) for grid in grids]
        self.length = [np.zeros(grid, np.uint32) for grid in grids]

    def put(self, place: Place, state: int, offset: int, length: int) -> None:
        """Record a tile."""
        level, row, col = place
        self.offset[level][row, col] = offset
        self.length[level][row, col] = length
        self.state[level][row, col] = state

    def has(self, place: Place) -> bool:
        """Whether the tile is recorded."""
        level, row, col = place
        return bool(self.state[level][row, col] != EMPTY)

    def missing(self) -> int:
        """How many tiles of all levels are not recorded."""
        return sum(int(np.count_nonzero(state == EMPTY)) for state in self.state)


class PieceStore:
    """The pieces that wait for their siblings. `None` stands for a piece of pure background."""

    def __init__(self, spec: PyramidSpec) -> None:
        self._spec = spec
        self._waiting: dict[Place, dict[Place, Image | None]] = {}

    def add(self, place: Place, piece: Image | None) -> dict[Place, Image | None] | None:
        """Keep the piece of tile `place`; once it was the last, all of the tile above by tile."""
        level, row, col = place
        above = (level + 1, row // 2, col // 2)
        pieces = self._waiting.setdefault(above, {})
        pieces[place] = piece
        rows, cols = self._spec.grid(level)
        if len(pieces) < min(2, rows - row // 2 * 2) * min(2, cols - col // 2 * 2):
            return None
        return self._waiting.pop(above)

    def clear(self) -> None:
        """Let go of everything."""
        self._waiting.clear()


def z_order(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Every (row, column) of a grid, block by block: the order that holds the fewest pieces."""
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


def assemble(spec: PyramidSpec, place: Place, pieces: dict[Place, Image | None]) -> Image | None:
    """Tile `place` put together from its pieces; None where all are pure background."""
    if all(piece is None for piece in pieces.values()):
        return None
    half = spec.tile // 2
    pixels = np.empty((*spec.tile_shape(*place), spec.samples), np.uint8)
    for (_, row, col), piece in pieces.items():
        y, x = row % 2 * half, col % 2 * half
        part = pixels[y : y + half, x : x + half]
        part[...] = np.asarray(spec.background, np.uint8) if piece is None else piece
    return pixels
