"""Names the kind of image that is resized as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError

RGB = NDArray[np.uint8]
"""An RGB image, (rows, columns, 3), uint8, 0 to 255."""


def check_rgb(image: RGB) -> None:
    """Makes sure that an array is an RGB image.

    Args:
        image: what was given.

    Raises:
        UsageError: it is not uint8 of shape (rows, columns, 3), or has no pixels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise UsageError(
            f"an array of shape {image.shape} and type {image.dtype} cannot be resized; give an "
            "RGB image of shape (rows, columns, 3) and type uint8"
        )
