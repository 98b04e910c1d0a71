"""Reads tissue masks from images: masks, overlays and label images."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, SlideError
from wsisr.slides import Slide, View, open_marks
from wsisr.tissue.mask import Mask

Colour = tuple[int, int, int]
BLACK: Colour = (0, 0, 0)
JPEG_THRESHOLD = 127
BAND_PIXELS = 1 << 20


def read_mask_image(path: Path, view: View, shape: tuple[int, int]) -> Mask:
    """Marks every mask px in which a mask image has a px that is set.

    Args:
        path: the image.
        view: the resolution of the slide that the mask is for.
        shape: rows and columns of the mask.

    Returns:
        bool, of `shape`.

    Raises:
        OptionError: it is no image, has another shape than the slide, or sets every px.
    """
    try:
        with open_marks(path) as image:
            _check_shape(path, image, view)
            background = background_colour(path, image)
            mask = _reduced(image, background, shape)
            if image.width < shape[1] or image.height < shape[0]:
                mask = mask | _enlarged(image, background, shape)
    except SlideError as error:
        raise OptionError("tissue", path, f"not a mask image or GeoJSON ({error})") from error
    if mask.all():
        raise OptionError(
            "tissue",
            path,
            "marks the whole slide; what is not tissue has to be black or transparent, or the "
            "first colour of a palette; off runs the model everywhere",
        )
    return mask


def _check_shape(path: Path, image: Slide, view: View) -> None:
    stretch = (image.width / view.width) / (image.height / view.height)
    slack = 1.02 + 2 / min(image.width, image.height)
    if not 1 / slack <= stretch <= slack:
        raise OptionError(
            "tissue",
            path,
            f"{image.width}x{image.height} px have another shape than the slide's "
            f"{view.width}x{view.height}; export the mask of the whole slide",
        )


def background_colour(path: Path, image: Slide) -> Colour:
    """Gives the colour of what a mask image does not mark.

    That is black, but in a label image of indexed colours without black it is the first colour of
    the palette: label 0 (QuPath exports it white).

    Args:
        path: the file.
        image: what it holds, opened.
    """
    first = first_of_palette(path)
    if first in (None, BLACK):
        return BLACK
    rows = max(1, BAND_PIXELS // image.width)
    for y in range(0, image.height, rows):
        pixels = image.read(0, 0, y, image.width, min(rows, image.height - y))
        if not pixels.any(axis=2).all():
            return BLACK
    return first


def first_of_palette(path: Path) -> Colour | None:
    """Reads the first colour of the palette of a PNG or TIFF file; None where there is none."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith(b"\x89PNG") and head[25:26] == b"\x03":
        place = head.find(b"PLTE")
        return struct.unpack("3B", head[place + 4 : place + 7]) if 0 < place < 65000 else None
    if head[:2] in (b"II", b"MM"):
        import tifffile

        try:
            with tifffile.TiffFile(path) as tiff:
                colours = tiff.pages.first.colormap
        except (tifffile.TiffFileError, ValueError, OSError):
            return None
        if colours is not None:
            red, green, blue = (int(value) >> 8 for value in colours[:, 0])
            return red, green, blue
    return None


def _is_set(pixels: NDArray[np.uint8], image: Slide, background: Colour) -> Mask:
    if background != BLACK:
        return np.asarray((pixels != np.array(background, np.uint8)).any(axis=2))
    threshold = JPEG_THRESHOLD if image.vendor == "jpeg" else 0
    return np.asarray(pixels.max(axis=2) > threshold)


def _reduced(image: Slide, background: Colour, shape: tuple[int, int]) -> Mask:
    """Marks the mask px into which px of the image fall that are set."""
    rows, columns = shape
    mask = np.zeros(shape, bool)
    band = max(1, BAND_PIXELS // image.width)
    for y in range(0, image.height, band):
        height = min(band, image.height - y)
        pixels = image.read(0, 0, y, image.width, height)
        where = np.nonzero(_is_set(pixels, image, background))
        mask[(where[0] + y) * rows // image.height, where[1] * columns // image.width] = True
    return mask


def _enlarged(image: Slide, background: Colour, shape: tuple[int, int]) -> Mask:
    """Enlarges a mask image that is coarser than the mask."""
    pixels = image.read(0, 0, 0, image.width, image.height)
    found = _is_set(pixels, image, background).astype(np.uint8)
    grown = cv2.resize(found, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(grown) > 0
