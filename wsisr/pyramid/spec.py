"""Describes a pyramid to be written: size, scale, tiles, codec, metadata, and its levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, UsageError

Compression = Literal["jpeg", "deflate", "zstd", "jpeg2000"]
Subsampling = Literal["420", "422", "444"]
Layout = Literal["ome", "hybrid"]
ZarrVersion = Literal["0.4", "0.5"]

COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
SUBSAMPLINGS: tuple[Subsampling, ...] = get_args(Subsampling)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ZARR_VERSIONS: tuple[ZarrVersion, ...] = get_args(ZarrVersion)
ASSOCIATED_NAMES = ("label", "macro", "thumbnail")
MAX_SIDE = 2**31 - 1
MIN_TILE, MAX_TILE = 16, 8192


@dataclass(frozen=True)
class PyramidSpec:
    """Everything that a writer must know before the first tile.

    Attributes:
        width: width of level 0 in px.
        height: height of level 0 in px.
        mpp: um/px of level 0.
        magnification: of the objective that level 0 corresponds to, for example 40.
        tile: side of the stored tiles in px, a multiple of 16.
        compression: how the tiles of an OME-TIFF are coded.
        quality: the JPEG quality from 1 to 100; it also picks the fidelity of JPEG 2000, which is
            lossless at 100.
        subsampling: chroma subsampling of JPEG.
        layout: `ome` keeps the levels of an OME-TIFF in SubIFDs alone, `hybrid` also chains them
            as main images, for openslide and cuCIM.
        icc_profile: the ICC colour profile, carried as it is.
        background: colour of glass, one value from 0 to 255 a channel.
        name: what the image is called in the metadata.
        provenance: what made the pixels; anything that JSON holds.
        associated: `label`, `macro` and `thumbnail` as uint8 (rows, columns, 3), for OME-TIFF
            alone; empty by default, for these images carry patient data.
        zarr_version: version of NGFF that an OME-Zarr follows: 0.4 (Zarr 2) or 0.5 (Zarr 3,
            sharded). OME-Zarr stores tiles without loss and ignores compression, quality,
            subsampling and layout.
        channels: what each channel is called: three are RGB, one is a grey-scale map, for
            OME-TIFF alone.
        position: x and y of the top left corner in the slide that this is a region of, in um from
            the slide's own; None for a whole slide.

    Raises:
        OptionError: tile, quality, compression, subsampling, layout or zarr_version is outside its
            range.
        UsageError: another value is outside its range.
    """

    width: int
    height: int
    mpp: float
    magnification: float
    tile: int = 512
    compression: Compression = "jpeg"
    quality: int = 90
    subsampling: Subsampling = "420"
    layout: Layout = "ome"
    icc_profile: bytes | None = None
    background: tuple[int, ...] = (255, 255, 255)
    name: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    associated: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict, compare=False)
    zarr_version: ZarrVersion = "0.4"
    channels: tuple[str, ...] = ("Red", "Green", "Blue")
    position: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self._check_scale()
        self._check_coding()
        self._check_colours()
        for name, image in self.associated.items():
            _check_associated(name, image)

    def _check_scale(self) -> None:
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

    def _check_coding(self) -> None:
        if not MIN_TILE <= self.tile <= MAX_TILE or self.tile % MIN_TILE:
            rule = f"give a multiple of {MIN_TILE} from {MIN_TILE} to {MAX_TILE}"
            raise OptionError("tile", self.tile, rule)
        if not 1 <= self.quality <= 100:
            raise OptionError("quality", self.quality, "give a number from 1 to 100")
        choices: dict[str, tuple[str, ...]] = {
            "compression": COMPRESSIONS,
            "subsampling": SUBSAMPLINGS,
            "layout": LAYOUTS,
            "zarr_version": ZARR_VERSIONS,
        }
        for option, known in choices.items():
            value = getattr(self, option)
            if value not in known:
                raise OptionError(option, value, f"choose one of {', '.join(known)}")

    def _check_colours(self) -> None:
        if self.samples not in (1, 3):
            raise UsageError(f"channels {self.channels}: give one name or three")
        if len(self.background) != self.samples or not all(0 <= v <= 255 for v in self.background):
            raise UsageError(
                f"background {self.background}: give {self.samples} values from 0 to 255"
            )

    @property
    def samples(self) -> int:
        """How many values a pixel has: 3 for RGB, 1 for a map."""
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
        """Counts the tiles of a level, as (rows, columns)."""
        return self._grids[level]

    @cached_property
    def _grids(self) -> tuple[tuple[int, int], ...]:
        return tuple((-(-h // self.tile), -(-w // self.tile)) for w, h in self.levels)

    def tile_shape(self, level: int, row: int, col: int) -> tuple[int, int]:
        """Measures the part of a tile that lies inside its level: smaller at the far edges.

        Args:
            level: the level, 0 the finest.
            row: row of the tile in the level's grid.
            col: column of the tile in the level's grid.

        Returns:
            (rows, columns) in px.
        """
        width, height = self.levels[level]
        return min(self.tile, height - row * self.tile), min(self.tile, width - col * self.tile)

    def resolution(self, level: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Computes the pixels per centimetre of a level as TIFF has them.

        Args:
            level: the level, 0 the finest.

        Returns:
            Rationals along x and y, each (numerator, denominator).
        """
        sizes = self.levels
        x, y = (
            Fraction(10_000) / Fraction(self.mpp) * Fraction(own, full)
            for own, full in zip(sizes[level], sizes[0], strict=True)
        )
        return _rational(x), _rational(y)


def _check_associated(name: str, image: NDArray[np.uint8]) -> None:
    if name not in ASSOCIATED_NAMES:
        raise UsageError(f"associated image {name}: choose one of {', '.join(ASSOCIATED_NAMES)}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(f"associated image {name}: give uint8 RGB (height, width, 3)")


def _rational(value: Fraction) -> tuple[int, int]:
    """Rounds to a fraction whose numbers both fit into 32 bits, above 0."""
    limit = 2**32 - 1
    for denominator in (1_000_000, 10_000, 100, 1):
        numerator = round(value * denominator)
        if 0 < numerator <= limit:
            short = Fraction(numerator, denominator)
            return short.numerator, short.denominator
    return (limit, 1) if value > 1 else (1, limit)
