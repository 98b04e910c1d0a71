"""Reads images through libvips: plain files, and TIFF images that are not decoded here."""

from __future__ import annotations

import logging
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.slides.base import RGB, WHITE, on_background

_turn = threading.Lock()

COLOURS = {"b-w": 1, "grey16": 1, "srgb": 3, "rgb16": 3, "rgb": 3}
"""Samples that hold the colour, by libvips's name of the colour model."""


class VipsLevel:
    """Reads an image of libvips as a `LevelPixels`.

    Alpha is laid over a colour, and of 16 bits the upper eight are taken, as libvips does.

    Memory: libvips decodes tiles as they are asked for. An image that is not tiled is decoded
    whole at the first read, in memory, or beyond 100 MB in a temporary file.

    Attributes:
        icc_profile: the profile of the pixels that are read, None where there is none.
    """

    def __init__(
        self,
        path: Path,
        image: Any,
        background: tuple[int, int, int] = WHITE,
        *,
        tiled: bool = False,
    ) -> None:
        self._path, self._background, self._tiled = path, background, tiled
        # a tile that failed stays black in libvips's cache: nothing is read after a failure
        self._damage: SlideError | None = None
        self.icc_profile: bytes | None = None
        if image.interpretation == "cmyk":
            image = in_srgb(path, image)
        elif image.get_typeof("icc-profile-data"):
            self.icc_profile = bytes(image.get("icc-profile-data"))
        check_samples(path, image)
        self._image = image
        self.width: int = image.width
        self.height: int = image.height

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region, see `LevelPixels.read`."""
        image = self._image
        if self._damage is not None:
            raise self._damage
        try:
            data = (checked_fetch if self._tiled else fetch)(image, x, y, width, height)
        except libvips().Error as error:
            self._damage = undecodable(self._path, error)
            raise self._damage from error
        shape = height, width, image.bands
        if image.format == "ushort":
            pixels = (np.frombuffer(data, np.uint16).reshape(shape) >> 8).astype(np.uint8)
        else:
            pixels = np.frombuffer(data, np.uint8).reshape(shape)
        return flattened(pixels, COLOURS[image.interpretation], self._background)


def fetch(image: Any, x: int, y: int, width: int, height: int) -> bytes:
    """Reads a region of an image; an error of libvips where its decoder fails."""
    data: bytes = libvips().Region.new(image).fetch(x, y, width, height)
    return data


def checked_fetch(image: Any, x: int, y: int, width: int, height: int) -> bytes:
    """Reads a region of an image that is stored in tiles.

    libvips paints tiles black that it cannot decode, and goes on. What went wrong is left in its
    buffer of errors, which all threads share: they take turns.
    """
    vips = libvips()
    with _turn:
        vips.vips_lib.vips_error_clear()
        data = fetch(image, x, y, width, height)
        message = vips.ffi.string(vips.vips_lib.vips_error_buffer()).decode("utf-8", "replace")
        vips.vips_lib.vips_error_clear()
    if message.strip():
        raise vips.Error(message.strip())
    return data


def flattened(pixels: NDArray[np.uint8], colours: int, background: tuple[int, int, int]) -> RGB:
    """Turns samples (h, w, n) into RGB; the one behind the colours is alpha."""
    if colours == 1:
        grey = np.repeat(pixels[..., :1], 3, axis=2)
        pixels = np.concatenate([grey, pixels[..., 1:2]], axis=2)
    if pixels.shape[2] > 3:
        return on_background(pixels[..., :4], background)
    return np.ascontiguousarray(pixels)


def in_srgb(path: Path, image: Any) -> Any:
    """Converts CMYK to sRGB, by its profile or a common one.

    Raises:
        SlideError: libvips cannot.
    """
    try:
        return image.icc_transform("srgb", embedded=True, input_profile="cmyk")
    except libvips().Error as error:
        raise undecodable(path, error) from error


def as_marks(image: Any) -> Any:
    """Tells of samples of other than 8 bits whether they are 0: 0 where they are, else 255."""
    if image.format == "uchar":
        return image
    return (image != 0).copy(interpretation="b-w" if image.bands < 3 else "srgb")


def check_samples(path: Path, image: Any) -> None:
    """Makes sure that an image is grey or RGB of 8 or 16 bits, with or without alpha.

    Raises:
        SlideError: its samples have no agreed black and white, or are no colours.
    """
    if image.format not in ("uchar", "ushort"):
        raise SlideError(
            f"{path} has samples of the kind {image.format}, which have no agreed black and "
            "white; convert it to 8 bit grey or RGB first"
        )
    colours = COLOURS.get(image.interpretation, 0)
    if not colours or image.bands not in (colours, colours + 1):
        raise SlideError(
            f"{path} has {image.bands} samples a pixel that are no grey or RGB "
            f"({image.interpretation}); convert it to 8 bit grey or RGB first"
        )


def load(path: Path, kind: str, **options: Any) -> Any:
    """Opens an image with one loader of libvips, without decoding it.

    Args:
        path: the file.
        kind: the loader, for instance `png`.
        options: of the loader.

    Raises:
        SlideError: the file is damaged, or this libvips lacks the loader.
    """
    vips = libvips()
    try:
        # a source, for libvips would take brackets in a name for options
        source = vips.Source.new_from_file(str(path))
        loader = getattr(vips.Image, f"{kind}load_source")
        return loader(source, access="random", fail_on="error", **options)
    except (vips.Error, AttributeError) as error:
        raise undecodable(path, error) from error


def orientation(image: Any) -> int:
    """Gives the orientation that a file states, 1 where it states none."""
    return int(image.get("orientation")) if image.get_typeof("orientation") else 1


def undecodable(path: Path, error: BaseException) -> SlideError:
    """Words the error for a file that cannot be decoded."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else type(error).__name__
    return SlideError(
        f"{path} cannot be decoded ({reason}); it is damaged, cut short, or stored in a way that "
        "is not read: convert it to a tiled TIFF with JPEG"
    )


@cache
def libvips() -> Any:
    """Loads libvips, without its cache of operations, which would keep files open and pixels."""
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise SlideError(
            f"libvips, which reads such images, cannot be loaded ({error}); "
            "pip install 'pyvips[binary]'"
        ) from error
    # what libvips warns of, such as tags out of order, it reads
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    pyvips.cache_set_max(0)
    return pyvips
