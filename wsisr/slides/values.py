"""Reads the numbers of an image as they are stored: label images, not pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.slides.plain import LOADERS, plain_kind
from wsisr.slides.vips_reader import checked_fetch, libvips, load, undecodable

TYPES = {
    "uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2", "uint": "u4", "int": "i4",
    "float": "f4", "double": "f8",
}  # fmt: skip
"""The numpy type of each of libvips's formats of samples."""


def read_values(path: Path) -> NDArray[Any]:
    """Reads the samples of an image of one channel, upright.

    Args:
        path: a TIFF or plain image; of several images the first is read.

    Returns:
        (h, w), of the type that is stored.

    Raises:
        SlideError: it cannot be read, or has several channels, as indexed colours have.
    """
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise SlideError(f"{path} cannot be read ({error.strerror})") from error
    kind = plain_kind(head) or ("tiff" if head[:2] in (b"II", b"MM") else None)
    if kind is None:
        raise SlideError(f"{path} is no image that can be read; store it as PNG or TIFF")
    image = load(path, LOADERS.get(kind, kind))
    if image.bands != 1:
        raise SlideError(f"{path} has {image.bands} channels and not one; store labels as numbers")
    try:
        image = image.autorot()
        data = checked_fetch(image, 0, 0, image.width, image.height)
    except libvips().Error as error:
        raise undecodable(path, error) from error
    return np.frombuffer(data, TYPES[image.format]).reshape(image.height, image.width)
