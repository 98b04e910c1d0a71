"""Resizes whole uint8 images to a size, by OpenCV.

OpenCV's bicubic works in fixed point and its area mean of uneven factors in single precision.
Published figures rest on both, so they are called here rather than written anew. The image is
stretched to the size: its corners stay corners, and there is no grid beyond it.
"""

from __future__ import annotations

import numpy as np

from wsisr.resize.images import RGB, check_rgb


def bicubic_upsample(image: RGB, scale: int) -> RGB:
    """Enlarges an image by bicubic interpolation: the baseline of the published figures.

    Half-pixel centres, a = -0.75, border pixels repeated, rounded and clipped to bytes.

    Args:
        image: uint8 (h, w, 3).
        scale: the factor, 1 or more.

    Returns:
        uint8 (h * scale, w * scale, 3).

    Raises:
        UsageError: an image of another kind.
    """
    return resize_to(image, (image.shape[1] * scale, image.shape[0] * scale))


def resize_to(image: RGB, size: tuple[int, int]) -> RGB:
    """Stretches an image to a size: by area averages, or bicubic where a side grows.

    Area averages round as `area_downsample` does where the factor is whole.

    Args:
        image: uint8 (h, w, 3).
        size: width and height to reach, in px.

    Returns:
        uint8 (size[1], size[0], 3).

    Raises:
        UsageError: an image of another kind.
    """
    import cv2

    check_rgb(image)
    height, width = image.shape[:2]
    shrinks = size[0] <= width and size[1] <= height
    way = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=way), dtype=np.uint8)


def shrink_within(image: RGB, side: int) -> RGB:
    """Shrinks an image until it fits into a square.

    Args:
        image: uint8 (h, w, 3).
        side: side of the square, in px.

    Returns:
        uint8 (h', w', 3) with the larger of h' and w' equal to `side`; the image itself where it
        fits already.
    """
    factor = side / max(image.shape[:2])
    if factor >= 1:
        return image
    height, width = (max(1, round(length * factor)) for length in image.shape[:2])
    return resize_to(image, (width, height))
