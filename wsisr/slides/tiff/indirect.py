"""Reads the images of a TIFF file that are not decoded here through libvips (libtiff)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsisr.errors import SlideError
from wsisr.slides.base import BLACK, WHITE
from wsisr.slides.tiff.ifd import Ifd
from wsisr.slides.tiff.pieces import (
    MAX_PIECE_BYTES,
    NotDirectError,
    image_size,
    is_tiled,
    piece_shape,
)
from wsisr.slides.vips_reader import VipsLevel, as_marks, load


def indirect_level(
    path: Path,
    ifds: Sequence[Ifd],
    ifd: Ifd,
    reason: NotDirectError,
    *,
    marks: bool = False,
) -> VipsLevel:
    """Opens one image of a TIFF file with libvips.

    Args:
        path: the file.
        ifds: all directories of the main chain.
        ifd: that of the image, one of them or one of their SubIFDs.
        reason: why it is not decoded here.
        marks: whether it marks parts of a slide, see `open_marks`.

    Raises:
        SlideError: libvips does not read it either, or sees another image than its directory
            describes.
    """
    width, height = image_size(ifd)
    piece = piece_shape(ifd, width, height)
    if min(piece) < 1 or piece[0] * piece[1] > MAX_PIECE_BYTES:
        raise SlideError(
            f"{path} is stored in pieces of {piece[0]}x{piece[1]} pixels; it is damaged, or must "
            "be converted to a tiled TIFF first"
        )
    page, nested = place(ifds, ifd)
    try:
        image = load(path, "tiff", page=page, subifd=nested)
        image, background = (as_marks(image), BLACK) if marks else (image, WHITE)
        level = VipsLevel(path, image, background, tiled=is_tiled(ifd))
    except SlideError as error:
        raise SlideError(f"{error} ({reason})") from error
    if (level.width, level.height) != (width, height):
        raise SlideError(
            f"{path} is damaged: libvips reads {level.width}x{level.height} pixels where "
            f"{width}x{height} are declared"
        )
    return level


def place(ifds: Sequence[Ifd], wanted: Ifd) -> tuple[int, int]:
    """Gives the number of a directory in the main chain, and in its SubIFDs, -1 for itself."""
    for page, ifd in enumerate(ifds):
        if ifd is wanted:
            return page, -1
        for nested, child in enumerate(ifd.children):
            if child is wanted:
                return page, nested
    raise ValueError("the directory is not of this file")
