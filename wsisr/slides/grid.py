"""Cuts a region along a grid of stored pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Part(NamedTuple):
    """Describes what one piece of a grid has of a region.

    Attributes:
        column: of the piece in the grid.
        row: of the piece in the grid.
        left: first column of pixels, in px of the level.
        top: first row of pixels, in px of the level.
        right: the column behind the last.
        bottom: the row behind the last.
    """

    column: int
    row: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """The width in px."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """The height in px."""
        return self.bottom - self.top

    def within(self, x: int, y: int) -> tuple[slice, slice]:
        """Gives rows and columns of the part in an array whose first pixel is (x, y)."""
        return slice(self.top - y, self.bottom - y), slice(self.left - x, self.right - x)


def parts_of(x: int, y: int, width: int, height: int, *, piece: tuple[int, int]) -> Iterator[Part]:
    """Yields the parts of a region that lie in one piece each, row by row.

    Args:
        x: left edge of the region, in px, 0 or more.
        y: top edge of the region, in px, 0 or more.
        width: of the region, in px.
        height: of the region, in px.
        piece: width and height of a piece, in px; the grid starts at (0, 0).

    Yields:
        Each part; together they cover the region once.
    """
    wide, high = piece
    for row in range(y // high, -(-(y + height) // high)):
        top, bottom = max(y, row * high), min(y + height, (row + 1) * high)
        for column in range(x // wide, -(-(x + width) // wide)):
            left, right = max(x, column * wide), min(x + width, (column + 1) * wide)
            yield Part(column, row, left, top, right, bottom)
