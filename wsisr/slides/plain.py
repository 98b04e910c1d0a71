"""Plain image files (PNG, JPEG, WebP, GIF, AVIF) as slides of one level, decoded by libvips."""

from __future__ import annotations

import struct
from pathlib import Path

from wsisr.errors import SlideError
from wsisr.slides.base import BLACK, WHITE, SlideInfo, StoredSlide
from wsisr.slides.profiles import fitting_profile
from wsisr.slides.turned import UPRIGHT, turned
from wsisr.slides.vips_reader import VipsLevel, as_marks, load, orientation

MAX_PIXELS = 1 << 31
"""The largest plain image: libvips decodes it whole, in 3 bytes a pixel."""
MAX_EXPANSION = 1100
"""Decoded bytes for each stored byte: Deflate cannot pass 1032."""
AVIF_BRANDS = (b"avif", b"avis")
LOADERS = {"avif": "heif"}
"""Loaders of libvips that are called differently."""
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by the colour type of a PNG (PNG specification, section 11.2.1)."""


def plain_kind(head: bytes) -> str | None:
    """Tells the format of a plain image by its first 16 bytes; None for any other file."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in AVIF_BRANDS:
        return "avif"
    return None


def open_plain(path: Path, kind: str, *, marks: bool = False) -> StoredSlide:
    """Opens a plain image, grey or RGB of 8 or 16 bits, with or without alpha, or CMYK.

    It is turned upright, alpha is laid over white, and of several images the first is taken. Its
    resolution in dots per inch is a print setting and no pixel size, so mpp is None.

    Args:
        path: the file.
        kind: what `plain_kind` says of it.
        marks: whether it marks parts of a slide, see `open_marks`.

    Returns:
        A slide of one level.

    Raises:
        SlideError: a damaged file, one of another kind, or one too large.

    Memory:
        See `VipsLevel`; at most `MAX_PIXELS`.
    """
    if kind == "png":
        check_png(path)
    image = load(path, LOADERS.get(kind, kind))
    if image.width * image.height > MAX_PIXELS:
        raise SlideError(
            f"{path} has too many pixels to be decoded whole; convert it to a tiled TIFF"
        )
    background = BLACK if marks else WHITE
    level = VipsLevel(path, as_marks(image) if marks else image, background)
    # libvips turns AVIF itself, by boxes that take precedence over Exif
    facing = UPRIGHT if kind == "avif" else orientation(image)
    profile = fitting_profile(path, level.icc_profile)
    info = SlideInfo(vendor=kind, icc_profile=profile, background=background)
    return StoredSlide(path, [turned(level, facing)], info)


def check_png(path: Path) -> None:
    """Makes sure that the bytes of a PNG can hold the pixels that it declares.

    Raises:
        SlideError: they cannot.
    """
    with path.open("rb") as file:
        head = file.read(26)
    if len(head) < 26:
        raise SlideError(f"{path} cannot be decoded; the file is cut short")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    row_bytes = 1 + width * PNG_SAMPLES.get(colour, 4) * depth // 8
    stored = path.stat().st_size
    if height * row_bytes > MAX_EXPANSION * stored:
        raise SlideError(
            f"{path} declares {width}x{height} pixels, more than its {stored} bytes "
            "can hold; it is damaged or made to exhaust memory"
        )
