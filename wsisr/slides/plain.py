"""PNG and JPEG files as slides of one level, decoded whole at the first read."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from wsisr.errors import SlideError
from wsisr.slides.base import RGB, WHITE, SlideInfo, StoredSlide, on_background

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
MAX_PIXELS = 1 << 30
"""The largest plain image, which is held in memory whole, in 3 bytes a pixel."""
MAX_EXPANSION = 1100
"""Decoded bytes for each stored byte: Deflate cannot pass 1032, and no honest JPEG comes near."""


def open_plain(path: Path) -> StoredSlide:
    """Opens a PNG or JPEG file of up to 8 bits a channel, grey or RGB, with or without alpha.

    Alpha is laid over white. Its resolution in dots per inch is a print setting and no pixel size,
    so mpp is None.

    Args:
        path: the file.

    Returns:
        A slide of one level.

    Raises:
        SlideError: a damaged file, one of another kind, or one too large.

    Memory:
        3 bytes a pixel from the first read on, for at most `MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            kind, mode, (width, height) = str(image.format).lower(), image.mode, image.size
            profile = image.info.get("icc_profile")
    except Image.DecompressionBombError as error:
        raise too_large(path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(path, error) from error
    if mode not in MODES or (kind == "png" and png_depth(path) > 8):
        raise SlideError(f"{path} is not an 8 bit grey or RGB image; convert it to 8 bit RGB first")
    if width * height > MAX_PIXELS:
        raise too_large(path)
    if width * height > MAX_EXPANSION * path.stat().st_size:
        raise SlideError(
            f"{path} declares {width}x{height} pixels, more than its {path.stat().st_size} bytes "
            "can hold; it is damaged or made to exhaust memory"
        )
    info = SlideInfo(vendor=kind, icc_profile=profile)
    return StoredSlide(path, [PlainPixels(path, width, height)], info)


class PlainPixels:
    """Holds the pixels of a plain image, decoded at the first read."""

    def __init__(self, path: Path, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._path = path
        self._pixels: RGB | None = None
        self._lock = threading.Lock()

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region, see `LevelPixels.read`."""
        with self._lock:
            if self._pixels is None:
                self._pixels = decode(self._path)
        return self._pixels[y : y + height, x : x + width].copy()


def decode(path: Path) -> RGB:
    """Decodes all pixels of the file to RGB on white."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.mode in ("L", "1", "RGB") and "transparency" not in image.info:
                return np.asarray(image.convert("RGB"))
            return on_background(np.asarray(image.convert("RGBA")), WHITE)
    except (OSError, SyntaxError, ValueError) as error:
        raise damaged(path, error) from error


def png_depth(path: Path) -> int:
    """Reads the bits of a channel from the header (PNG specification, section 11.2.1)."""
    with path.open("rb") as file:
        return file.read(25)[-1]


def damaged(path: Path, error: BaseException) -> SlideError:
    """Words the error for a file that cannot be decoded."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return SlideError(f"{path} cannot be decoded ({reason}); the file is damaged or cut short")


def too_large(path: Path) -> SlideError:
    """Words the error for a plain image that does not fit in memory."""
    return SlideError(
        f"{path} has too many pixels to be read whole; convert it to a tiled pyramidal TIFF"
    )
