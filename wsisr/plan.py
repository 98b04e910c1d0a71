"""Geometry of an upscaling run: pure arithmetic, no pixels, no files, no torch.

Coordinates. `view` pixels are those of the resolution that is upscaled; `output` pixels are those
of the whole upscaled slide, whatever region is asked for. All windows lie on one grid anchored at
output pixel (0, 0), so any part computed alone has the pixels of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError

TARGET_MPP = 0.25
"""um/px at 40x; mpp = 10 / magnification, the field's rule of thumb."""

NOMINAL_MAGNIFICATIONS = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
LARGEST_MAGNIFICATION = 80.0
WINDOW_MULTIPLE = 64
CUBIC = -0.75
"""The cubic kernel's slope at distance one, as in OpenCV and torch."""


@dataclass(frozen=True)
class Rect:
    """A rectangle: left, top, width and height in px."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column behind it."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below it."""
        return self.y + self.height


@dataclass(frozen=True)
class Window:
    """One window of the grid: its row and column, and its top-left output pixel."""

    row: int
    column: int
    x: int
    y: int


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Attributes:
        size: output pixels of the whole slide along this axis.
        tile: side of a window.
        overlap: pixels that neighbouring windows share.
    """

    size: int
    tile: int
    overlap: int

    @property
    def stride(self) -> int:
        """Distance of neighbouring windows."""
        return self.tile - self.overlap

    @property
    def count(self) -> int:
        """Windows that cover the axis; the last reaches its end or beyond."""
        return max(1, math.ceil((self.size - self.tile) / self.stride) + 1)

    def cell(self, index: int) -> tuple[int, int]:
        """Start and end of the output pixels that are finished with window `index`."""
        start = index * self.stride
        last = index == self.count - 1
        return start, self.size if last else start + self.stride

    def cell_at(self, position: int) -> int:
        """Index of the cell that holds an output pixel."""
        return min(position // self.stride, self.count - 1)

    def needed(self, start: int, end: int) -> tuple[int, int]:
        """First and last window that pixels start..end-1 depend on."""
        first, last = self.cell_at(start), self.cell_at(end - 1)
        # a cell's leading overlap blends with the window before it
        blends = first > 0 and start < first * self.stride + self.overlap
        return first - blends, last


@dataclass(frozen=True)
class Plan:
    """What is computed: a region of the upscaled slide as windows of the global grid.

    Attributes:
        view_width, view_height: px of the resolution that is upscaled.
        scale: output px for each view px, > 1.
        region: wanted part of the upscaled slide, output px.
        tile, overlap: side of the windows and what neighbours share, output px.
    """

    view_width: int
    view_height: int
    scale: float
    region: Rect
    tile: int = 512
    overlap: int = 64

    @cached_property
    def columns(self) -> Axis:
        """The grid's horizontal axis."""
        return Axis(target_size(self.view_width, self.scale), self.tile, self.overlap)

    @cached_property
    def rows(self) -> Axis:
        """The grid's vertical axis."""
        return Axis(target_size(self.view_height, self.scale), self.tile, self.overlap)

    @cached_property
    def window_rows(self) -> range:
        """Rows of windows the region depends on."""
        first, last = self.rows.needed(self.region.y, self.region.bottom)
        return range(first, last + 1)

    @cached_property
    def window_columns(self) -> range:
        """Columns of windows the region depends on."""
        first, last = self.columns.needed(self.region.x, self.region.right)
        return range(first, last + 1)

    def windows(self) -> Iterator[Window]:
        """All windows, row by row from the top left."""
        for row in self.window_rows:
            for column in self.window_columns:
                yield Window(row, column, column * self.columns.stride, row * self.rows.stride)

    def __len__(self) -> int:
        return len(self.window_rows) * len(self.window_columns)

    def view_span(self, start: int, axis: Axis) -> tuple[int, int]:
        """First view pixel, and one behind the last, that a window starting at `start` reads."""
        return source_span(start, axis.tile, axis.size, self.scale, self._view_size(axis))

    def sampling(self, start: int, axis: Axis) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bicubic (tile, n) and area (n, tile) weights between a window and its view span."""
        n = self._view_size(axis)
        span = self.view_span(start, axis)
        up = cubic_matrix(start, axis.tile, axis.size, self.scale, n, span)
        return up, area_matrix(start, axis.tile, axis.size, self.scale, span)

    def _view_size(self, axis: Axis) -> int:
        return self.view_width if axis is self.columns else self.view_height


def target_size(size: int, scale: float) -> int:
    """Output pixels of `size` view pixels; at least one."""
    return max(1, round(size * scale))


def make_plan(
    view_width: int,
    view_height: int,
    scale: float,
    *,
    region: Rect | None = None,
    tile: int = 512,
    overlap: int = 64,
) -> Plan:
    """Check the numbers and lay out the windows.

    Args:
        view_width, view_height: px of the resolution that is upscaled.
        scale: > 1.
        region: part of the view to upscale, view px; the whole by default.
        tile: side of a window in output px, a multiple of 64.
        overlap: a multiple of 8, at most half the tile: the latent grid has 8 px, and no pixel
            is shared by more than two windows along an axis.

    Raises:
        UsageError: any of these does not hold, or the region lies outside.
    """
    if not (math.isfinite(scale) and scale > 1):
        raise UsageError(f"--scale {scale:g}: must be greater than 1")
    if tile < WINDOW_MULTIPLE or tile % WINDOW_MULTIPLE:
        raise UsageError(f"--tile {tile}: must be a multiple of {WINDOW_MULTIPLE}")
    if overlap < 0 or overlap % 8 or overlap > tile // 2:
        raise UsageError(f"--overlap {overlap}: must be a multiple of 8, at most {tile // 2}")
    if region is None:
        region = Rect(0, 0, view_width, view_height)
    if region.width < 1 or region.height < 1:
        raise UsageError(f"--region: {region.width}x{region.height} px has no area")
    if region.x < 0 or region.y < 0 or region.right > view_width or region.bottom > view_height:
        raise UsageError(
            f"--region: reaches outside the slide, which has {view_width}x{view_height} px there"
        )
    x, y = round(region.x * scale), round(region.y * scale)
    right = min(round(region.right * scale), target_size(view_width, scale))
    bottom = min(round(region.bottom * scale), target_size(view_height, scale))
    output = Rect(x, y, max(1, right - x), max(1, bottom - y))
    return Plan(view_width, view_height, scale, output, tile, overlap)


def scaled_region(region: Rect, downsample: float, width: int, height: int) -> Rect:
    """A region in level-0 px as one in the px of a view with that downsample and size.

    Raises:
        UsageError: no area, or outside the slide.
    """
    if region.width < 1 or region.height < 1:
        raise UsageError(f"--region: {region.width}x{region.height} px has no area")
    full_width, full_height = round(width * downsample), round(height * downsample)
    if region.x < 0 or region.y < 0 or region.right > full_width or region.bottom > full_height:
        raise UsageError(
            f"--region: {region.x},{region.y},{region.width},{region.height} reaches outside "
            f"the slide's {full_width}x{full_height} px"
        )
    x, y = int(region.x / downsample), int(region.y / downsample)
    right = min(width, max(x + 1, math.ceil(region.right / downsample - 1e-9)))
    bottom = min(height, max(y + 1, math.ceil(region.bottom / downsample - 1e-9)))
    x, y = min(x, width - 1), min(y, height - 1)
    return Rect(x, y, right - x, bottom - y)


def nominal_magnification(mpp: float) -> float:
    """Objective power that a resolution stands for; snapped to a usual one within 15 %."""
    exact = 10 / mpp
    nearest = min(NOMINAL_MAGNIFICATIONS, key=lambda m: abs(math.log(m / exact)))
    return nearest if abs(math.log(nearest / exact)) < math.log(1.15) else round(exact, 2)


def default_scale(mpp: float) -> float:
    """The factor that leads to 40x, a whole number where one is within 6 %.

    Scanners that call 0.263 um/px "40x" are met by a factor of 4 from 1.05 um/px, not by 4.2.
    """
    exact = mpp / TARGET_MPP
    return float(round(exact)) if abs(round(exact) / exact - 1) < 0.06 else exact


def reflect(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Mirror positions into 0..size-1 about the centres of the edge pixels."""
    if size == 1:
        return np.zeros_like(position)
    folded = np.abs(position) % (2 * (size - 1))
    mirrored: NDArray[np.int64] = np.minimum(folded, 2 * (size - 1) - folded)
    return mirrored


def _cubic_taps(
    start: int, count: int, size: int, scale: float, view_size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """View pixels (count, 4) and weights (count, 4) of output pixels start..start+count-1."""
    inside = reflect(np.arange(start, start + count, dtype=np.int64), size)
    centre = (inside + 0.5) / scale - 0.5
    left = np.floor(centre).astype(np.int64)
    distance = np.abs(centre[:, None] - (left[:, None] + np.arange(-1, 3)))
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    weights = np.where(distance <= 1, near, far)
    return np.clip(left[:, None] + np.arange(-1, 3), 0, view_size - 1), weights


def source_span(start: int, count: int, size: int, scale: float, view_size: int) -> tuple[int, int]:
    """First view pixel, and one behind the last, under output pixels start..start+count-1."""
    taps, _ = _cubic_taps(start, count, size, scale, view_size)
    return int(taps.min()), int(taps.max()) + 1


def cubic_matrix(
    start: int, count: int, size: int, scale: float, view_size: int, span: tuple[int, int]
) -> NDArray[np.float32]:
    """Bicubic interpolation as weights (count, span), each row summing to one.

    Output pixels beyond the slide's edge are mirrored, taps beyond the view's edge repeat its
    border pixels (as OpenCV's and torch's bicubic do).
    """
    taps, weights = _cubic_taps(start, count, size, scale, view_size)
    matrix = np.zeros((count, span[1] - span[0]), np.float64)
    np.add.at(matrix, (np.arange(count)[:, None], taps - span[0]), weights)
    return matrix.astype(np.float32)


def area_matrix(
    start: int, count: int, size: int, scale: float, span: tuple[int, int]
) -> NDArray[np.float32]:
    """Area averaging as weights (span, count): each view pixel as the mean over its area.

    The row of a view pixel whose area is not wholly inside both window and slide is zero.
    """
    edges = np.arange(span[0], span[1] + 1) * scale - start
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(count)
    cover = np.minimum(pixels + 1, high) - np.maximum(pixels, low)
    matrix = np.clip(cover, 0, 1) / scale
    end = min(count, size - start)
    whole = (low >= -1e-9) & (high <= end + 1e-9)
    return np.where(whole, matrix, 0).astype(np.float32)
