"""Reads slides through openslide: every format it knows, at its speed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import ImageCms

from wsisr.errors import SlideError
from wsisr.slides.base import (
    ASSOCIATED,
    RGB,
    WHITE,
    AssociatedImages,
    SlideInfo,
    StoredSlide,
    filled,
    mean_mpp,
    microscopic,
    on_background,
    positive,
)
from wsisr.slides.cache import CACHE_BYTES, TileCache
from wsisr.slides.grid import Part, parts_of
from wsisr.slides.profiles import fitting_profile

log = logging.getLogger(__name__)

Bounds = tuple[int, int, int, int]
"""Left, top, width and height, in level-0 px."""
MAX_ASSOCIATED = 64 << 20
"""Pixels of the largest associated image that is decoded."""


class Handles:
    """Holds the open slide.

    After an error openslide refuses all further reads, so the slide is opened anew.

    Attributes:
        lock: held by whoever opens the slide anew.
        current: the handle to read by.
    """

    def __init__(self, path: Path, cache_bytes: int) -> None:
        self._path, self._cache_bytes = path, cache_bytes
        self.lock = threading.Lock()
        self.current = self.open()

    def open(self) -> openslide.OpenSlide:
        """Opens one more handle.

        Raises:
            SlideError: openslide cannot open the file.
        """
        try:
            handle = openslide.OpenSlide(str(self._path))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path} cannot be opened ({first_line(error)}); "
                "check that the file, and what lies beside it, is complete"
            ) from error
        handle.set_cache(openslide.OpenSlideCache(self._cache_bytes))
        return handle

    def close(self) -> None:
        """Closes the handle in use."""
        self.current.close()


def open_vendor(
    path: Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    unreadable: set[tuple[str, int, int]] | None = None,
) -> StoredSlide:
    """Opens a slide with openslide, cropped to the scanned bounds where the file states them.

    Args:
        path: the file.
        cache_bytes: bound of openslide's cache of decoded tiles.
        unreadable: where given, what cannot be decoded is recorded in it, see `VendorLevel`.

    Returns:
        The open slide.

    Raises:
        SlideError: openslide cannot open the file.
    """
    handles = Handles(path, cache_bytes)
    handle = handles.current
    properties = dict(handle.properties)
    background = background_colour(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
    bounds = scanned_bounds(handle)
    pixels = [
        VendorLevel(path, handles, level, bounds, background, unreadable)
        for level in range(handle.level_count)
    ]
    names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
    info = SlideInfo(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "openslide"),
        mpp=microscopic(path, mean_mpp(path, *(positive(properties.get(name)) for name in names))),
        magnification=positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        icc_profile=fitting_profile(path, icc_profile(path, handle)),
        background=background,
        properties=properties,
    )
    loaders = {
        name: lambda name=name: associated_image(path, handle, name, background)
        for name in ASSOCIATED
        if name in handle.associated_images
    }
    return StoredSlide(path, pixels, info, AssociatedImages(loaders), handles.close)


class VendorLevel:
    """Reads one level of an openslide file.

    openslide takes positions in whole level-0 px. Where the downsample is not an integer, most
    positions of a level can be hit only nearly, and a region's pixels would depend on where it
    starts. Such levels are therefore read in blocks of a fixed grid, so that every pixel has one
    value; the blocks last used are kept, up to `KEPT_BYTES`.

    Where a set of unreadable places is given, squares of `SQUARE` px in which something cannot be
    decoded are recorded in it as (`level N`, column, row) and read as background; without one
    they are errors.
    """

    BLOCK = 512
    KEPT_BYTES = 24 << 20
    SQUARE = 256

    def __init__(
        self,
        path: Path,
        handles: Handles,
        level: int,
        bounds: Bounds,
        background: tuple[int, int, int],
        unreadable: set[tuple[str, int, int]] | None,
    ) -> None:
        left, top, width, height = bounds
        handle = handles.current
        self._path, self._handles, self._level = path, handles, level
        self._background, self._unreadable = background, unreadable
        self._origin = left, top
        self._downsample = float(handle.level_downsamples[level])
        self.width: int
        self.height: int
        self.width, self.height = handle.level_dimensions[level]
        if bounds != (0, 0, *handle.dimensions):
            self.width = max(1, int(width / self._downsample))
            self.height = max(1, int(height / self._downsample))
        self._blocks = TileCache(self.KEPT_BYTES)

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region, see `LevelPixels.read`."""
        if self._downsample.is_integer():
            return self._read_at(x, y, width, height)
        out = np.empty((height, width, 3), np.uint8)
        side = self.BLOCK
        for part in parts_of(x, y, width, height, piece=(side, side)):
            block = self._block(part.column, part.row)
            out[part.within(x, y)] = block[part.within(part.column * side, part.row * side)]
        return out

    def _block(self, column: int, row: int) -> RGB:
        """Gives a block of the fixed grid, from the cache or the file."""
        block = self._blocks.get((column, row))
        if block is None:
            x, y = column * self.BLOCK, row * self.BLOCK
            block = self._read_at(
                x, y, min(self.BLOCK, self.width - x), min(self.BLOCK, self.height - y)
            )
            self._blocks.put((column, row), block)
        return block

    def _read_at(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region; round what is damaged, where that is wanted."""
        try:
            return self._read_by(self._handles.current, x, y, width, height)
        except openslide.OpenSlideError as error:
            if self._unreadable is None:
                raise SlideError(
                    f"{self._path}: level {self._level}, {width}x{height} pixels at ({x}, {y}) "
                    f"cannot be read ({first_line(error)}); the file is damaged or cut short"
                ) from error
        out = np.empty((height, width, 3), np.uint8)
        for part in parts_of(x, y, width, height, piece=(self.SQUARE, self.SQUARE)):
            out[part.within(x, y)] = self._read_square(part, self._unreadable)
        return out

    def _read_square(self, part: Part, unreadable: set[tuple[str, int, int]]) -> RGB:
        """Reads part of a square by a handle of its own, which no other thread can spoil."""
        with self._handles.lock:
            handle = self._handles.open()
            try:
                pixels = self._read_by(handle, part.left, part.top, part.width, part.height)
            except openslide.OpenSlideError:
                handle.close()
                unreadable.add((f"level {self._level}", part.column, part.row))
                return filled(part.width, part.height, self._background)
            # the one before is closed when its last reader lets go of it
            self._handles.current = handle
            return pixels

    def _read_by(self, handle: openslide.OpenSlide, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region by one handle."""
        corner = (
            self._origin[0] + round(x * self._downsample),
            self._origin[1] + round(y * self._downsample),
        )
        image = handle.read_region(corner, self._level, (width, height))
        return opaque(np.asarray(image), self._background)


def opaque(pixels: NDArray[np.uint8], background: tuple[int, int, int]) -> RGB:
    """Turns RGBA (h, w, 4) into RGB, quickly where nothing is transparent."""
    import cv2

    if int(pixels[..., 3].min()) == 255:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)
    return on_background(pixels, background)


def scanned_bounds(handle: openslide.OpenSlide) -> Bounds:
    """Reads the bounds of what was scanned: the whole where the file states none that can be."""
    width, height = handle.dimensions
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    try:
        left, top, wide, high = (int(handle.properties[name]) for name in names)
    except (KeyError, ValueError):
        return 0, 0, width, height
    left, top = max(left, 0), max(top, 0)
    wide, high = min(wide, width - left), min(high, height - top)
    return (left, top, wide, high) if wide > 0 and high > 0 else (0, 0, width, height)


def background_colour(text: str | None) -> tuple[int, int, int]:
    """Reads `RRGGBB` as numbers; white where it is missing or malformed."""
    try:
        red, green, blue = bytes.fromhex(text or "")
    except ValueError:
        return WHITE
    return red, green, blue


def icc_profile(path: Path, handle: openslide.OpenSlide) -> bytes | None:
    """Gives the profile's bytes, which openslide-python hands out only inside of a PIL profile."""
    try:
        profile = handle.color_profile
    except (openslide.OpenSlideError, ImageCms.PyCMSError) as error:
        log.warning("%s: its ICC profile cannot be read (%s) and is left out", path, error)
        return None
    return None if profile is None else bytes(profile.tobytes())


def associated_image(
    path: Path, handle: openslide.OpenSlide, name: str, background: tuple[int, int, int]
) -> RGB:
    """Decodes an associated image to RGB."""
    sides = [
        int(handle.properties.get(f"openslide.associated.{name}.{side}", 0))
        for side in ("width", "height")
    ]
    if sides[0] * sides[1] > MAX_ASSOCIATED:
        raise SlideError(f"{path}: the {name} image is too large; do without it")
    try:
        return opaque(np.asarray(handle.associated_images[name]), background)
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"{path}: the {name} image cannot be read ({first_line(error)}); do without it"
        ) from error


def first_line(error: BaseException) -> str:
    """Gives the first line of an error's text, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
