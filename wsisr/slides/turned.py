"""Turns the pixels of a level upright, as the orientation tag of its file says."""

from __future__ import annotations

import numpy as np

from wsisr.slides.base import RGB, LevelPixels

UPRIGHT = 1
"""The orientation of an image whose first row is its top and first column its left side."""

# orientation (TIFF 6.0, tag 274; the same in Exif): whether the stored rows are the columns
# that are seen, whether what is seen is mirrored across, and whether down
_TURNS = {
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def turned(level: LevelPixels, orientation: int) -> LevelPixels:
    """Gives a level as it is to be seen.

    Args:
        level: the level as it is stored.
        orientation: 1 to 8, as TIFF and Exif have it; anything else leaves the level as it is.
    """
    return TurnedLevel(level, *_TURNS[orientation]) if orientation in _TURNS else level


class TurnedLevel:
    """Reads another level mirrored, or with rows and columns exchanged."""

    def __init__(self, stored: LevelPixels, exchanged: bool, across: bool, down: bool) -> None:
        self._stored, self._exchanged = stored, exchanged
        self._across, self._down = across, down
        size = stored.width, stored.height
        self.width, self.height = size[::-1] if exchanged else size

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region, see `LevelPixels.read`."""
        if self._across:
            x = self.width - x - width
        if self._down:
            y = self.height - y - height
        if self._exchanged:
            pixels = self._stored.read(y, x, height, width).transpose(1, 0, 2)
        else:
            pixels = self._stored.read(x, y, width, height)
        if self._across:
            pixels = pixels[:, ::-1]
        if self._down:
            pixels = pixels[::-1]
        return np.ascontiguousarray(pixels)
