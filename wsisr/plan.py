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
from wsisr.resize import area_matrix, cubic_matrix, cubic_span

WINDOW_MULTIPLE = 64


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
        window: side of a window.
        overlap: pixels that neighbouring windows share.
    """

    size: int
    window: int
    overlap: int

    @property
    def stride(self) -> int:
        """Distance of neighbouring windows."""
        return self.window - self.overlap

    @property
    def count(self) -> int:
        """Windows that cover the axis; the last reaches its end or beyond."""
        return max(1, math.ceil((self.size - self.window) / self.stride) + 1)

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
        window, overlap: side of the windows and what neighbours share, output px.
    """

    view_width: int
    view_height: int
    scale: float
    region: Rect
    window: int = 512
    overlap: int = 64

    @cached_property
    def columns(self) -> Axis:
        """The grid's horizontal axis."""
        return Axis(target_size(self.view_width, self.scale), self.window, self.overlap)

    @cached_property
    def rows(self) -> Axis:
        """The grid's vertical axis."""
        return Axis(target_size(self.view_height, self.scale), self.window, self.overlap)

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
        return cubic_span(start, axis.window, axis.size, self.scale, self._view_size(axis))

    def sampling(self, start: int, axis: Axis) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bicubic (window, n) and area (n, window) weights between a window and its view span."""
        n = self._view_size(axis)
        span = self.view_span(start, axis)
        up = cubic_matrix(start, axis.window, axis.size, self.scale, n, span)
        return up, area_matrix(start, axis.window, axis.size, self.scale, span)

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
    window: int = 512,
    overlap: int = 64,
) -> Plan:
    """Check the numbers and lay out the windows.

    Args:
        view_width, view_height: px of the resolution that is upscaled.
        scale: > 1.
        region: part of the view to upscale, view px; the whole by default.
        window: side of a window in output px, a multiple of 64.
        overlap: a multiple of 8, at most half the window: the latent grid has 8 px, and no pixel
            is shared by more than two windows along an axis.

    Raises:
        UsageError: any of these does not hold, or the region lies outside.
    """
    if not (math.isfinite(scale) and scale > 1):
        raise UsageError(f"--scale {scale:g}: must be greater than 1")
    if window < WINDOW_MULTIPLE or window % WINDOW_MULTIPLE:
        raise UsageError(f"--window {window}: must be a multiple of {WINDOW_MULTIPLE}")
    if overlap < 0 or overlap % 8 or overlap > window // 2:
        raise UsageError(f"--overlap {overlap}: must be a multiple of 8, at most {window // 2}")
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
    return Plan(view_width, view_height, scale, output, window, overlap)


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
