"""Resizing as matrices of weights, for windows on the grid of a slide.

Pixel k of an image enlarged by `scale` has its centre at (k + 0.5) / scale - 0.5 of the image it
is made from (half-pixel centres), whatever the window. Rows and columns are resized one after the
other, so two small matrices describe a window, on any device and with gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CUBIC = -0.75
"""The cubic kernel's slope at distance one, as in OpenCV and torch."""


def reflect(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Mirrors positions into 0..size-1 about the centres of the edge pixels."""
    if size == 1:
        return np.zeros_like(position)
    folded = np.abs(position) % (2 * (size - 1))
    mirrored: NDArray[np.int64] = np.minimum(folded, 2 * (size - 1) - folded)
    return mirrored


def _cubic_taps(
    start: int, count: int, size: int, scale: float, view_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Gives the pixels and weights that make a run of output pixels, (count, 4) each."""
    inside = reflect(np.arange(start, start + count, dtype=np.int64), size)
    centre = (inside + 0.5) / scale - 0.5
    left = np.floor(centre).astype(np.int64)
    distance = np.abs(centre[:, None] - (left[:, None] + np.arange(-1, 3)))
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    weights = np.where(distance <= 1, near, far)
    return np.clip(left[:, None] + np.arange(-1, 3), 0, view_size - 1), weights


def cubic_span(start: int, count: int, size: int, scale: float, view_size: int) -> tuple[int, int]:
    """Gives the pixels that bicubic interpolation reads for a run of output pixels.

    Args:
        start: the first output pixel.
        count: how many there are.
        size: side of the whole output, in px.
        scale: output pixels for each pixel of the view.
        view_size: side of the whole view, in px.

    Returns:
        The first pixel of the view, and the one behind the last.
    """
    taps, _ = _cubic_taps(start, count, size, scale, view_size)
    return int(taps.min()), int(taps.max()) + 1


def cubic_matrix(
    start: int, count: int, size: int, scale: float, view_size: int, span: tuple[int, int]
) -> NDArray[np.float32]:
    """Writes bicubic interpolation as a matrix (Keys 1981, a = -0.75).

    Output pixels beyond the slide's edge are mirrored, taps beyond the view's edge repeat its
    border pixels (as OpenCV's and torch's bicubic do).

    Args:
        start: the first output pixel.
        count: how many there are.
        size: side of the whole output, in px.
        scale: output pixels for each pixel of the view.
        view_size: side of the whole view, in px.
        span: the pixels of the view, as `cubic_span` gives them.

    Returns:
        float32 (count, pixels in the span); each row sums to one.
    """
    taps, weights = _cubic_taps(start, count, size, scale, view_size)
    matrix = np.zeros((count, span[1] - span[0]), np.float64)
    np.add.at(matrix, (np.arange(count)[:, None], taps - span[0]), weights)
    return matrix.astype(np.float32)


def area_matrix(
    start: int, count: int, size: int, scale: float, span: tuple[int, int]
) -> NDArray[np.float32]:
    """Writes area averaging as a matrix: each pixel of the view is the mean over its area.

    Args:
        start: the first output pixel.
        count: how many there are.
        size: side of the whole output, in px.
        scale: output pixels for each pixel of the view.
        span: the first pixel of the view, and the one behind the last.

    Returns:
        float32 (pixels in the span, count). The row of a pixel whose area is not wholly inside
        both window and slide is zero, the others sum to one.
    """
    edges = np.arange(span[0], span[1] + 1) * scale - start
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(count)
    cover = np.minimum(pixels + 1, high) - np.maximum(pixels, low)
    matrix = np.clip(cover, 0, 1) / scale
    end = min(count, size - start)
    whole = (low >= -1e-9) & (high <= end + 1e-9)
    return np.where(whole, matrix, 0).astype(np.float32)


@dataclass(frozen=True)
class AxisWeights:
    """How a stretch of output pixels and the input pixels under it lead to each other.

    Attributes:
        start: first input pixel under the stretch.
        stop: one behind the last.
        up: float32 (count, stop - start), bicubic interpolation from input to output.
        down: float32 (stop - start, count), area averaging from output to input; the row of an
            input pixel that the stretch does not cover whole is zero.
    """

    start: int
    stop: int
    up: NDArray[np.float32]
    down: NDArray[np.float32]


def axis_weights(start: int, count: int, size: int, scale: float, source_size: int) -> AxisWeights:
    """Works out the weights of a stretch of pixels along one axis.

    Args:
        start: first output pixel of the stretch.
        count: its length in px; what lies beyond `size` is mirrored.
        size: output pixels of the whole axis.
        scale: output px for each input px, > 1.
        source_size: input pixels of the whole axis.
    """
    span = cubic_span(start, count, size, scale, source_size)
    up = cubic_matrix(start, count, size, scale, source_size, span)
    return AxisWeights(*span, up, area_matrix(start, count, size, scale, span))
