"""Reduction by area averaging, on a grid anchored at the slide's origin.

Pixel k of the reduced image covers [k * factor, (k + 1) * factor) of the source in both
directions, wherever a window starts, so every window has the pixels of the whole. At the right
and bottom edge a pixel is the mean of the part that lies inside. Integer factors give the plain
box mean rounded half up, in integer arithmetic; others weigh each source pixel with the exact
area covered, in double precision, rounded half up.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]

SLIVER = 1e-3
"""A last pixel narrower than this share of a pixel is arithmetic noise, and dropped."""


def reduced_size(size: int, factor: float) -> int:
    """How many reduced pixels cover `size` source pixels (1 or more)."""
    return max(1, math.ceil(size / factor - SLIVER))


def area_span(start: int, count: int, factor: float, size: int) -> tuple[int, int]:
    """First and one past the last source pixel under `count` reduced pixels from `start`."""
    first = math.floor(start * factor)
    return first, min(size, max(first + 1, math.ceil((start + count) * factor)))


def reduce_area(
    source: RGB,
    *,
    factor: float,
    start: tuple[int, int],
    count: tuple[int, int],
    size: tuple[int, int],
) -> RGB:
    """The reduced pixels `start` (x, y) to `start + count`, from the source pixels under them.

    source: uint8 (h, w, 3), exactly the pixels of `area_span` in x and y. size: width and height
    of the whole source image. Returns uint8 (count y, count x, 3).
    """
    out: RGB = np.empty((count[1], count[0], 3), np.uint8)
    if factor.is_integer():
        _box_mean(source, int(factor), out)
    else:
        x_edges, y_edges = (_edges(start[i], count[i], factor, size[i]) for i in (0, 1))
        _weighted_mean(source, x_edges, y_edges, out)
    return out


def _edges(start: int, count: int, factor: float, size: int) -> NDArray[np.float64]:
    """Edges of the reduced pixels in the coordinates of the source window."""
    edges = np.arange(start, start + count + 1, dtype=np.float64) * factor
    first = math.floor(start * factor)
    return np.minimum(edges, size) - first


@numba.njit(nogil=True, cache=True)
def _box_mean(source: RGB, factor: int, out: RGB) -> None:
    rows, cols = source.shape[:2]
    flat = source.reshape(rows, cols * 3)
    column = np.empty(cols * 3, np.uint32)
    for i in range(out.shape[0]):
        top, bottom = i * factor, min((i + 1) * factor, rows)
        column[:] = 0
        for r in range(top, bottom):
            for c in range(cols * 3):
                column[c] += flat[r, c]
        for j in range(out.shape[1]):
            left, right = j * factor, min((j + 1) * factor, cols)
            area = (bottom - top) * (right - left)
            for k in range(3):
                total = np.uint64(0)
                for c in range(left, right):
                    total += column[c * 3 + k]
                out[i, j, k] = (2 * total + area) // (2 * area)


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
