"""A tile's location, its images, and the protocol of what gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsisr.evaluation.measures import Image


@dataclass(frozen=True)
class Location:
    """Where a tile lies.

    Attributes:
        name: name of the tile.
        group: the slide or folder it belongs to.
        x: left edge in level-0 px of SR.
        y: top edge in level-0 px of SR.
        width: width in level-0 px of SR.
        height: height in level-0 px of SR.
    """

    name: str
    group: str
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class TileImages:
    """The images of one location; each (h, w, 3) uint8 RGB.

    Attributes:
        sr: the result.
        hr: the real scan on SR's grid, None where there is none.
        lr: the input at its own resolution, None where there is none.
        bicubic: the input enlarged to SR's size, None where there is no input.
        also: {label: the same location in another result}.
    """

    sr: Image
    hr: Image | None
    lr: Image | None
    bicubic: Image | None
    also: Mapping[str, Image] = field(default_factory=dict)


class PairSource(Protocol):
    """Gives the tiles that are compared. `load` may be called from several threads at once."""

    @property
    def mpp(self) -> float:
        """Gives the um/px of SR."""
        ...

    @property
    def locations(self) -> Sequence[Location]:
        """Gives the tiles, in order."""
        ...

    @property
    def thumbnail(self) -> Image | None:
        """Gives SR at no more than 1024 px a side, None where tiles do not lie on one slide."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """Gives (width, height) of SR in px, None where tiles do not lie on one slide."""
        ...

    @property
    def matrix(self) -> npt.NDArray[np.float64] | None:
        """Gives the (2, 3) matrix from SR's level-0 px to HR's; None without registration."""
        ...

    def load(self, location: Location) -> TileImages:
        """Reads the images of a location.

        Args:
            location: one of `locations`.

        Returns:
            Its images.

        Raises:
            WsisrError: they cannot be read.
        """
        ...
