"""Slides through openslide: every format it knows, at its speed."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

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
    on_background,
    positive,
)

CACHE_BYTES = 64 << 20


class Handles:
    """The open slide. After an error openslide refuses all further reads, so it is opened anew."""

    def __init__(self, path: Path, cache_bytes: int) -> None:
        self._path, self._cache_bytes = path, cache_bytes
        self.lock = threading.Lock()
        self.current = self.open()

    def open(self) -> openslide.OpenSlide:
        """One more handle. Raises `SlideError`."""
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
        """Close the handle in use."""
        self.current.close()


def open_vendor(
    path: Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    unreadable: set[tuple[str, int, int]] | None = None,
) -> StoredSlide:
    """Open `path` with openslide, cropped to the scanned bounds where the file states them.

    `cache_bytes` bounds openslide's cache of decoded tiles. unreadable: see `VendorLevel`. Raises
    `SlideError`.
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
    info = SlideInfo(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "openslide"),
        mpp=mean_mpp(
            path,
            positive(properties.get(openslide.PROPERTY_NAME_MPP_X)),
            positive(properties.get(openslide.PROPERTY_NAME_MPP_Y)),
        ),
        magnification=positive(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        icc_profile=icc_profile(handle),
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
    """One level of an openslide file.

    openslide takes positions in whole level-0 px. Where the downsample is not an integer, most
    positions of a level can be hit only nearly, and a window's pixels would depend on where it
    starts. Such levels are therefore read in blocks of a fixed grid, so that every pixel has one
    value; the few blocks last used are kept (`BLOCKS_KEPT`, 768 KB each).

    unreadable: where given, squares of `SQUARE` px in which something cannot be decoded are
    recorded in it as (`level N`, column, row) and read as background; where None, they raise.
    """

    BLOCK = 512
    BLOCKS_KEPT = 32
    SQUARE = 256

    def __init__(
        self,
        path: Path,
        handles: Handles,
        level: int,
        bounds: tuple[int, int, int, int],
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
        self._blocks: dict[tuple[int, int], RGB] = {}
        self._lock = threading.Lock()

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """See `LevelPixels.read`."""
        if self._downsample.is_integer():
            return self._read_at(x, y, width, height)
        out = np.empty((height, width, 3), np.uint8)
        side = self.BLOCK
        for row in range(y // side, -(-(y + height) // side)):
            for col in range(x // side, -(-(x + width) // side)):
                block = self._block(row, col)
                left, top = max(x, col * side), max(y, row * side)
                right, bottom = min(x + width, (col + 1) * side), min(y + height, (row + 1) * side)
                out[top - y : bottom - y, left - x : right - x] = block[
                    top - row * side : bottom - row * side, left - col * side : right - col * side
                ]
        return out

    def _block(self, row: int, col: int) -> RGB:
        with self._lock:
            block = self._blocks.pop((row, col), None)
        if block is None:
            x, y = col * self.BLOCK, row * self.BLOCK
            block = self._read_at(
                x, y, min(self.BLOCK, self.width - x), min(self.BLOCK, self.height - y)
            )
        with self._lock:
            self._blocks[row, col] = block
            while len(self._blocks) > self.BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
        return block

    def _read_at(self, x: int, y: int, width: int, height: int) -> RGB:
        try:
            return self._read_by(self._handles.current, x, y, width, height)
        except openslide.OpenSlideError as error:
            if self._unreadable is None:
                raise SlideError(
                    f"{self._path}: level {self._level}, {width}x{height} pixels at ({x}, {y}) "
                    f"cannot be read ({first_line(error)}); the file is damaged or cut short"
                ) from error
        out = np.empty((height, width, 3), np.uint8)
        side = self.SQUARE
        for row in range(y // side, -(-(y + height) // side)):
            for col in range(x // side, -(-(x + width) // side)):
                left, top = max(x, col * side), max(y, row * side)
                right, bottom = min(x + width, (col + 1) * side), min(y + height, (row + 1) * side)
                out[top - y : bottom - y, left - x : right - x] = self._read_square(
                    left, top, right - left, bottom - top
                )
        return out

    def _read_square(self, x: int, y: int, width: int, height: int) -> RGB:
        """Part of a square, by a handle of its own, which no other thread can spoil."""
        with self._handles.lock:
            handle = self._handles.open()
            try:
                pixels = self._read_by(handle, x, y, width, height)
            except openslide.OpenSlideError:
                handle.close()
                assert self._unreadable is not None
                self._unreadable.add((f"level {self._level}", x // self.SQUARE, y // self.SQUARE))
                return filled(width, height, self._background)
            # the one before is closed when its last reader lets go of it
            self._handles.current = handle
            return pixels

    def _read_by(self, handle: openslide.OpenSlide, x: int, y: int, width: int, height: int) -> RGB:
        corner = (
            self._origin[0] + round(x * self._downsample),
            self._origin[1] + round(y * self._downsample),
        )
        image = handle.read_region(corner, self._level, (width, height))
        return opaque(np.asarray(image), self._background)


def opaque(pixels: NDArray[np.uint8], background: tuple[int, int, int]) -> RGB:
    """RGBA (h, w, 4) as RGB, quickly where nothing is transparent."""
    if int(pixels[..., 3].min()) == 255:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)
    return on_background(pixels, background)


def scanned_bounds(handle: openslide.OpenSlide) -> tuple[int, int, int, int]:
    """Left, top, width, height of what was scanned, in level-0 px: the whole where unstated."""
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
    """`RRGGBB` as numbers, white where it is missing or malformed."""
    try:
        red, green, blue = bytes.fromhex(text or "")
    except ValueError:
        return WHITE
    return red, green, blue


def icc_profile(handle: openslide.OpenSlide) -> bytes | None:
    """The profile's bytes; openslide-python hands them out only inside of a PIL profile."""
    profile = handle.color_profile
    return None if profile is None else bytes(profile.tobytes())


def associated_image(
    path: Path, handle: openslide.OpenSlide, name: str, background: tuple[int, int, int]
) -> RGB:
    """An associated image as RGB."""
    try:
        return opaque(np.asarray(handle.associated_images[name]), background)
    except openslide.OpenSlideError as error:
        raise SlideError(
            f"{path}: the {name} image cannot be read ({first_line(error)}); do without it"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
