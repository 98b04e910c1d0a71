"""What a pyramid is to be: size, scale, tiles, codec, metadata, and the geometry of its levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError

COMPRESSIONS = ("jpeg", "deflate", "zstd", "jpeg2000")
SUBSAMPLINGS = ("420", "422", "444")
LAYOUTS = ("ome", "hybrid")
ZARR_VERSIONS = ("0.4", "0.5")
ASSOCIATED = ("label", "macro", "thumbnail")
MAX_SIDE = 2**31 - 1


@dataclass(frozen=True)
class PyramidSpec:
    """Everything a writer must know before the first tile.

    width, height: level 0 in px. mpp: um/px of level 0. magnification: of the objective, e.g. 40.
    tile: side in px, a multiple of 16. compression and subsampling: see `wsisr.pyramid.encode`;
    `quality` (1-100) is the JPEG quality, and picks the fidelity of JPEG 2000 (100: lossless).
    layout: `ome` keeps the levels in SubIFDs alone, `hybrid` also chains them as main images.
    zarr_version: the NGFF version of an OME-Zarr, 0.4 (Zarr 2) or 0.5 (Zarr 3, sharded);
    OME-Zarr stores tiles losslessly and takes no notice of compression, quality or subsampling.
    background: RGB of glass. provenance: anything JSON holds. associated: `label`, `macro`,
    `thumbnail` as uint8 (h, w, 3); empty by default, for these images carry patient data.
    channels: what each channel is called; three are RGB, one is a grey-scale map, OME-TIFF alone.

    Raises UsageError for a value outside its range.
    """

    width: int
    height: int
    mpp: float
    magnification: float
    tile: int = 512
    compression: str = "jpeg"
    quality: int = 90
    subsampling: str = "420"
    layout: str = "ome"
    icc_profile: bytes | None = None
    background: tuple[int, ...] = (255, 255, 255)
    name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    associated: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict, compare=False)
    zarr_version: str = "0.4"
    channels: tuple[str, ...] = ("Red", "Green", "Blue")

    def __post_init__(self) -> None:
        for side in ("width", "height"):
            value = getattr(self, side)
            if not 1 <= value <= MAX_SIDE:
                raise UsageError(
                    f"{side} {value} px is outside 1..{MAX_SIDE}; choose another scale"
                )
        for name in ("mpp", "magnification"):
            value = getattr(self, name)
            if not 0 < value < 1e6:
                raise UsageError(f"{name} {value} is not a positive number; give a real value")
        if self.tile < 16 or self.tile % 16 or self.tile > 8192:
            raise UsageError(f"--tile {self.tile}: give a multiple of 16 from 16 to 8192")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: give a number from 1 to 100")
        for option, choices in (
            ("compression", COMPRESSIONS),
            ("subsampling", SUBSAMPLINGS),
            ("layout", LAYOUTS),
            ("zarr_version", ZARR_VERSIONS),
        ):
            value = getattr(self, option)
            if value not in choices:
                flag = option.replace("_", "-")
                raise UsageError(f"--{flag} {value}: choose one of {', '.join(choices)}")
        if self.samples not in (1, 3):
            raise UsageError(f"channels {self.channels}: give one name or three")
        if len(self.background) != self.samples or not all(0 <= v <= 255 for v in self.background):
            raise UsageError(
                f"background {self.background}: give {self.samples} values from 0 to 255"
            )
        for name, image in self.associated.items():
            if name not in ASSOCIATED:
                raise UsageError(f"associated image {name}: choose one of {', '.join(ASSOCIATED)}")
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise UsageError(f"associated image {name}: give uint8 RGB (height, width, 3)")

    @property
    def samples(self) -> int:
        """Values a pixel: 3 for RGB, 1 for a map."""
        return len(self.channels)

    @cached_property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level in px, halved and rounded up until one tile holds it."""
        sizes = [(self.width, self.height)]
        while max(sizes[-1]) > self.tile:
            width, height = sizes[-1]
            sizes.append(((width + 1) // 2, (height + 1) // 2))
        return tuple(sizes)

    def grid(self, level: int) -> tuple[int, int]:
        """(rows, columns) of tiles at `level`."""
        return self._grids[level]

    @cached_property
    def _grids(self) -> tuple[tuple[int, int], ...]:
        return tuple((-(-h // self.tile), -(-w // self.tile)) for w, h in self.levels)

    def tile_shape(self, level: int, row: int, col: int) -> tuple[int, int]:
        """(rows, columns) in px of the tile's part inside its level: smaller at the far edges."""
        width, height = self.levels[level]
        return min(self.tile, height - row * self.tile), min(self.tile, width - col * self.tile)

    def resolution(self, level: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Pixels per centimetre along x and y as TIFF rationals (numerator, denominator)."""
        sizes = self.levels
        x, y = (
            Fraction(10_000) / Fraction(self.mpp) * Fraction(own, full)
            for own, full in zip(sizes[level], sizes[0], strict=True)
        )
        return _rational(x), _rational(y)


def _rational(value: Fraction) -> tuple[int, int]:
    limit = 2**32 - 1
    for denominator in (1_000_000, 10_000, 100, 1):
        numerator = round(value * denominator)
        if 0 < numerator <= limit:
            short = Fraction(numerator, denominator)
            return short.numerator, short.denominator
    return (limit, 1) if value > 1 else (1, limit)
