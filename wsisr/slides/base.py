"""Defines what every slide offers, and the one class behind which the formats stand.

A format module describes a file as a `SlideInfo` and one `LevelPixels` for each stored level;
`StoredSlide` adds what all of them share: levels, clipping, the background outside, errors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsisr.closing import Closing
from wsisr.errors import SlideError, UsageError

log = logging.getLogger(__name__)

RGB = NDArray[np.uint8]
"""Pixels (height, width, 3), uint8, red, green, blue, 0 to 255."""

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
PRINT_MPP = 30.0
"""Resolution tags coarser than this (850 dpi) are settings for printers, not pixel sizes."""
ASSOCIATED = ("label", "macro", "thumbnail")


@dataclass(frozen=True)
class Level:
    """Describes a stored resolution.

    Attributes:
        width: in px of the level.
        height: in px of the level.
        downsample: level-0 px that a px of the level is wide: the integer that explains the size
            (rounded down or up) where there is one, else the mean of the two ratios of sizes.
    """

    width: int
    height: int
    downsample: float


class Slide(Protocol):
    """Stands for an open whole-slide image; several threads may read from it at once."""

    @property
    def path(self) -> Path:
        """The file or folder it was opened from."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The stored resolutions, largest first."""

    @property
    def width(self) -> int:
        """Width of level 0 in px."""

    @property
    def height(self) -> int:
        """Height of level 0 in px."""

    @property
    def mpp(self) -> float | None:
        """Size of a level-0 pixel in um, mean of x and y; None where the file does not say."""

    @property
    def magnification(self) -> float | None:
        """Nominal magnification of the objective; None where the file does not say."""

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC profile of the pixels as stored in the file; None where there is none."""

    @property
    def associated(self) -> Mapping[str, RGB]:
        """The images `label`, `macro` and `thumbnail` that there are, decoded when asked for."""

    @property
    def background(self) -> tuple[int, int, int]:
        """The colour of what was not scanned, RGB, 0 to 255."""

    @property
    def properties(self) -> Mapping[str, str]:
        """The file's own metadata; keys as openslide writes them where it knows the format."""

    @property
    def vendor(self) -> str:
        """The kind of file, e.g. `aperio`, `hamamatsu`, `ome-tiff`, `ome-zarr`, `png`."""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region of a level.

        Args:
            level: a stored level, 0 the finest.
            x: left edge, in px of the level; it may lie outside.
            y: top edge, in px of the level; it may lie outside.
            width: in px of the level, 1 or more.
            height: in px of the level, 1 or more.

        Returns:
            uint8 (height, width, 3); what lies outside the slide has the background colour.

        Raises:
            UsageError: a level that does not exist, or a region without pixels.
            SlideError: broken data, or a closed slide.
        """

    def close(self) -> None:
        """Gives back files and caches; reading afterwards is a `SlideError`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class LevelPixels(Protocol):
    """Reads the pixels of one level; several threads may do so at once."""

    @property
    def width(self) -> int:
        """Width in px."""

    @property
    def height(self) -> int:
        """Height in px."""

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region that lies inside the level, in its px: uint8 (height, width, 3)."""


@dataclass(frozen=True)
class SlideInfo:
    """Holds what is known of a slide besides its pixels.

    Attributes:
        vendor: see `Slide.vendor`.
        mpp: um/px of level 0, None where the file does not say.
        magnification: nominal magnification, None where the file does not say.
        icc_profile: the ICC profile, None where there is none.
        background: colour of what was not scanned, RGB, 0 to 255.
        properties: the file's own metadata.
    """

    vendor: str
    mpp: float | None = None
    magnification: float | None = None
    icc_profile: bytes | None = None
    background: tuple[int, int, int] = WHITE
    properties: Mapping[str, str] = field(default_factory=dict)


class AssociatedImages(Mapping[str, RGB]):
    """Maps names to images, each decoded at every look: they are small and seldom wanted."""

    def __init__(self, loaders: Mapping[str, Callable[[], RGB]]) -> None:
        self._loaders = dict(loaders)

    def __getitem__(self, name: str) -> RGB:
        return self._loaders[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)


class StoredSlide(Closing):
    """Makes a `Slide` of the levels that a format module found; see there for the members."""

    def __init__(
        self,
        path: Path,
        pixels: Sequence[LevelPixels],
        info: SlideInfo,
        associated: Mapping[str, RGB] | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        ordered = sorted(pixels, key=lambda source: source.width * source.height, reverse=True)
        if not ordered or min(ordered[-1].width, ordered[-1].height) < 1:
            raise SlideError(f"{path} holds no image of at least 1x1 pixels")
        base = ordered[0]
        self.path = path
        self.levels = tuple(
            Level(source.width, source.height, level_downsample(base, source)) for source in ordered
        )
        self.mpp = info.mpp
        self.magnification = info.magnification
        self.icc_profile = info.icc_profile
        self.background = info.background
        self.properties = info.properties
        self.vendor = info.vendor
        self.associated: Mapping[str, RGB] = associated or {}
        self._pixels = tuple(ordered)
        self._close = close
        self._closed = False

    @property
    def width(self) -> int:
        """The width of level 0 in px."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """The height of level 0 in px."""
        return self.levels[0].height

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region of a level, see `Slide.read`."""
        if self._closed:
            raise SlideError(f"{self.path} is closed; open it again to read from it")
        if not 0 <= level < len(self.levels):
            raise UsageError(
                f"{self.path} has no level {level}; choose one of 0 to {len(self.levels) - 1}"
            )
        check_region(width, height)
        source = self._pixels[level]
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, source.width), min(y + height, source.height)
        if (right - left, bottom - top) == (width, height):
            return source.read(x, y, width, height)
        out = filled(width, height, self.background)
        if left < right and top < bottom:
            inside = source.read(left, top, right - left, bottom - top)
            out[top - y : bottom - y, left - x : right - x] = inside
        return out

    def close(self) -> None:
        """Closes the file, see `Slide.close`."""
        if not self._closed:
            self._closed = True
            self._close()


def check_region(width: int, height: int) -> None:
    """Makes sure that a region has pixels.

    Args:
        width: in px.
        height: in px.

    Raises:
        UsageError: it has none.
    """
    if width < 1 or height < 1:
        raise UsageError(f"a region of {width}x{height} pixels cannot be read; ask for 1x1 or more")


def filled(width: int, height: int, colour: tuple[int, int, int]) -> RGB:
    """Makes pixels (height, width, 3) of one colour."""
    if len(set(colour)) == 1:
        return np.full((height, width, 3), colour[0], np.uint8)
    out = np.empty((height, width, 3), np.uint8)
    out[...] = colour
    return out


def level_downsample(base: LevelPixels, level: LevelPixels) -> float:
    """Works out the downsample of a level from the sizes, see `Level`."""
    ratios = base.width / level.width, base.height / level.height
    nearest = round(sum(ratios) / 2)
    explains = all(
        big // nearest <= small <= -(-big // nearest)
        for big, small in ((base.width, level.width), (base.height, level.height))
    )
    return float(nearest) if explains else sum(ratios) / 2


def on_background(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> RGB:
    """Lays RGBA (h, w, 4) with straight alpha over a colour and rounds half up."""
    alpha = pixels[..., 3:].astype(np.uint32)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(pixels[..., :3])
    under = np.asarray(colour, np.uint32) * (255 - alpha)
    over = pixels[..., :3] * alpha
    return ((2 * (over + under) + 255) // 510).astype(np.uint8)


def positive(text: object) -> float | None:
    """Reads a text as a number above zero; anything else that files contain gives None."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def microscopic(path: Path, mpp: float | None) -> float | None:
    """Gives a pixel size that came from resolution tags; None where those are for printing."""
    if mpp is not None and mpp > PRINT_MPP:
        log.info("%s: its resolution of %.0f um a pixel is a print setting, not used", path, mpp)
        return None
    return mpp


def mean_mpp(path: Path, mpp_x: float | None, mpp_y: float | None) -> float | None:
    """Averages the pixel sizes, in um, and warns of pixels more than 1 % off being square."""
    known = [mpp for mpp in (mpp_x, mpp_y) if mpp is not None]
    if not known:
        return None
    if max(known) > 1.01 * min(known):
        log.warning("%s: pixels are not square (%.4f x %.4f um); their mean is used", path, *known)
    return sum(known) / len(known)
