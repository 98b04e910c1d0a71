"""What every measure takes: pairs of uint8 RGB images, checked once, and their luma."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError

Image = npt.NDArray[np.uint8]
"""An RGB image, (rows, columns, 3), uint8, 0..255."""
Plane = npt.NDArray[np.float64]
"""One channel, (rows, columns), float64."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""ITU-R BT.601, in the order red, green, blue."""


def check_image(image: Image, name: str) -> None:
    """Checks that an array is an RGB image.

    Args:
        image: must be (h, w, 3) uint8 with at least one pixel.
        name: what the message calls it.

    Raises:
        UsageError: it is something else.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UsageError(
            f"{name} is an array of shape {image.shape} and type {image.dtype}; "
            "measures take RGB images of shape (rows, columns, 3) and type uint8"
        )


def check_pair(sr: Image, hr: Image) -> None:
    """Checks that two arrays are RGB images of one size.

    Args:
        sr: the super-resolved image.
        hr: the reference.

    Raises:
        UsageError: they are not.
    """
    check_image(sr, "the super-resolved image")
    check_image(hr, "the reference image")
    if sr.shape != hr.shape:
        raise UsageError(
            f"the super-resolved image is {sr.shape[1]}x{sr.shape[0]} px and the reference "
            f"{hr.shape[1]}x{hr.shape[0]} px; crop or register them to one size first"
        )


def luma(image: Image) -> Plane:
    """Gives the BT.601 luma, (h, w) float64, 0 to 255, not rounded."""
    return np.asarray(cv2.transform(image.astype(np.float64), np.array([LUMA_WEIGHTS])))
