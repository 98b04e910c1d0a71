"""The 2x2 box on the CPU: OpenCV where it rounds as specified, numba elsewhere."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit
from numpy.typing import NDArray

# Its halving path for these channel counts is (a + b + c + d + 2) >> 2; for others it goes
# through floats and rounds halves to even.
_OPENCV_CHANNELS = (1, 3, 4)


def box2x2(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Write the box of uint8 (2 h, 2 w, channels) into uint8 (h, w, channels)."""
    height, width, channels = out.shape
    if channels not in _OPENCV_CHANNELS:
        box2x2_numba(image, out)
        return
    # OpenCV drops a single channel's axis, and writes only into rows of packed pixels.
    packed = out.strides[1:] == (channels, 1)
    target = out if channels > 1 else out[..., 0]
    made = cv2.resize(
        image, (width, height), dst=target if packed else None, interpolation=cv2.INTER_AREA
    )
    if not packed:
        target[...] = made


@njit(cache=True, nogil=True)
def box2x2_numba(image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """The same for any number of channels and any strides."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for c in range(out.shape[2]):
                total = (
                    np.uint16(image[2 * y, 2 * x, c])
                    + np.uint16(image[2 * y, 2 * x + 1, c])
                    + np.uint16(image[2 * y + 1, 2 * x, c])
                    + np.uint16(image[2 * y + 1, 2 * x + 1, c])
                )
                out[y, x, c] = np.uint8((total + 2) >> 2)
