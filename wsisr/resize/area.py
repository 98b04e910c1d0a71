"""Averages images over areas: regions of a slide by any factor, whole images by whole ones.

The grid is anchored at the slide's origin. Pixel k of the reduced image covers
[k * factor, (k + 1) * factor) of the source in both directions, wherever a region starts, so
every region has the pixels of the whole. At the right and bottom edge a pixel is the mean of the
part that lies inside.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError
from wsisr.resize.grid import area_span
from wsisr.resize.halving import halve
from wsisr.resize.images import RGB, check_rgb


def reduce_area(
    source: RGB,
    *,
    factor: float,
    start: tuple[int, int],
    count: tuple[int, int],
    size: tuple[int, int],
) -> RGB:
    """Averages a region of a slide over the areas of its reduced pixels.

    Whole factors give the box mean in integer arithmetic; others weigh each source pixel with the
    exact area covered, in double precision. Both round halves up.

    Args:
        source: uint8 (h, w, 3), C-contiguous, exactly the pixels of `area_span` in x and y.
        factor: source pixels that a reduced pixel is wide, 1 or more.
        start: x and y of the first reduced pixel, on the grid of the slide.
        count: reduced pixels across and down.
        size: width and height of the whole source image, in px.

    Returns:
        uint8 (count[1], count[0], 3).

    Raises:
        UsageError: the source is something else, or pixels outside the image are asked for.
    """
    _check_area(source, factor, start, count, size)
    out: RGB = np.empty((count[1], count[0], 3), np.uint8)
    if factor.is_integer():
        _box_mean(source, int(factor), out)
    else:
        x_edges, y_edges = (_edges(start[i], count[i], factor, size[i]) for i in (0, 1))
        _weighted_mean(source, x_edges, y_edges, out)
    return out


def area_mean(image: RGB, scale: int) -> NDArray[np.float32]:
    """Averages an image over boxes of whole pixels, without rounding to bytes.

    The sums are exact; their product with 1 / scale**2 is rounded once, to single precision.

    Args:
        image: uint8 (h, w, 3) with h and w multiples of `scale`.
        scale: side of a box in px, 1 or more.

    Returns:
        float32 (h / scale, w / scale, 3), 0 to 255.

    Raises:
        UsageError: an image of another kind, or one that the boxes do not fill.
    """
    image = _checked(image, scale)
    rows, columns = image.shape[:2]
    out: NDArray[np.float32] = np.empty((rows // scale, columns // scale, 3), np.float32)
    _box_mean_unrounded(image, scale, out)
    return out


def area_downsample(image: RGB, scale: int) -> RGB:
    """Averages an image over boxes of whole pixels, as low-resolution test images are made.

    Rounds as OpenCV's INTER_AREA does: halves up for boxes of 2x2, to the even neighbour for
    others. All published figures rest on inputs made so, which is why this differs from
    `reduce_area`, that always rounds halves up.

    Args:
        image: uint8 (h, w, 3) with h and w multiples of `scale`.
        scale: side of a box in px, 1 or more.

    Returns:
        uint8 (h / scale, w / scale, 3).

    Raises:
        UsageError: an image of another kind, or one that the boxes do not fill.
    """
    if scale == 2:
        return halve(_checked(image, scale))
    mean = area_mean(image, scale)
    return np.rint(mean, out=mean).astype(np.uint8)


def _check_area(
    source: RGB,
    factor: float,
    start: tuple[int, int],
    count: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Checks what the kernels rely on: that they stay inside the source."""
    check_rgb(source)
    if not 1 <= factor < math.inf or min(start) < 0 or min(count) < 1:
        raise UsageError(f"{count} px from {start} on, reduced by {factor:g}, are no region")
    spans = [area_span(start[i], count[i], factor, size[i]) for i in (0, 1)]
    if source.shape[1::-1] != tuple(last - first for first, last in spans) or any(
        (start[i] + count[i] - 1) * factor >= size[i] for i in (0, 1)
    ):
        raise UsageError(
            f"{source.shape[1]}x{source.shape[0]} px of {size[0]}x{size[1]} are not those under "
            f"{count} px from {start} on, reduced by {factor:g}"
        )


def _checked(image: RGB, scale: int) -> RGB:
    """Gives the image, C-contiguous, once it is known to consist of whole boxes."""
    check_rgb(image)
    rows, columns = image.shape[:2]
    if scale < 1 or rows % scale or columns % scale:
        raise UsageError(f"{columns}x{rows} px cannot be averaged by {scale}; crop to a multiple")
    return np.ascontiguousarray(image)


def _edges(start: int, count: int, factor: float, size: int) -> NDArray[np.float64]:
    """Gives the edges of the reduced pixels in the coordinates of the source region."""
    edges = np.arange(start, start + count + 1, dtype=np.float64) * factor
    first = math.floor(start * factor)
    return np.minimum(edges, size) - first


@numba.njit(inline="always")
def _sum_rows(flat: NDArray[np.uint8], top: int, bottom: int, column: NDArray[np.uint32]) -> None:
    """Adds up each column of bytes over some rows."""
    column[:] = 0
    for r in range(top, bottom):
        for c in range(flat.shape[1]):
            column[c] += flat[r, c]


@numba.njit(inline="always")
def _sum_columns(column: NDArray[np.uint32], left: int, right: int, channel: int) -> np.uint64:
    """Adds up one channel of the columns of a box."""
    total = np.uint64(0)
    for c in range(left, right):
        total += column[c * 3 + channel]
    return total


@numba.njit(nogil=True, cache=True)
def _box_mean(source: RGB, factor: int, out: RGB) -> None:
    rows, cols = source.shape[:2]
    flat = source.reshape(rows, cols * 3)
    column = np.empty(cols * 3, np.uint32)
    for i in range(out.shape[0]):
        top, bottom = i * factor, min((i + 1) * factor, rows)
        _sum_rows(flat, top, bottom, column)
        for j in range(out.shape[1]):
            left, right = j * factor, min((j + 1) * factor, cols)
            area = (bottom - top) * (right - left)
            for k in range(3):
                total = _sum_columns(column, left, right, k)
                out[i, j, k] = (2 * total + area) // (2 * area)


@numba.njit(nogil=True, cache=True)
def _box_mean_unrounded(source: RGB, scale: int, out: NDArray[np.float32]) -> None:
    rows, cols = source.shape[:2]
    flat = source.reshape(rows, cols * 3)
    column = np.empty(cols * 3, np.uint32)
    share = np.float32(1) / np.float32(scale * scale)
    for i in range(out.shape[0]):
        _sum_rows(flat, i * scale, (i + 1) * scale, column)
        for j in range(out.shape[1]):
            for k in range(3):
                total = _sum_columns(column, j * scale, (j + 1) * scale, k)
                out[i, j, k] = np.float32(total) * share


@numba.njit(nogil=True, cache=True)
def _weighted_mean(
    source: RGB, x_edges: NDArray[np.float64], y_edges: NDArray[np.float64], out: RGB
) -> None:
    rows, cols = source.shape[:2]
    flat = source.reshape(rows, cols * 3)
    column = np.empty(cols * 3, np.float64)
    for i in range(out.shape[0]):
        y0, y1 = y_edges[i], y_edges[i + 1]
        column[:] = 0
        for r in range(int(y0), min(rows, int(np.ceil(y1)))):
            weight = min(y1, r + 1.0) - max(y0, float(r))
            for c in range(cols * 3):
                column[c] += weight * flat[r, c]
        for j in range(out.shape[1]):
            x0, x1 = x_edges[j], x_edges[j + 1]
            area = (x1 - x0) * (y1 - y0)
            for k in range(3):
                total = 0.0
                for c in range(int(x0), min(cols, int(np.ceil(x1)))):
                    total += (min(x1, c + 1.0) - max(x0, float(c))) * column[c * 3 + k]
                out[i, j, k] = min(255, int(total / area + 0.5))
