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

from wsisr.errors import OptionError

WINDOW_MULTIPLE, LARGEST_WINDOW = 64, 16384
LATENT_PX = 8
"""Windows start on this grid, that of the latents and of the noise."""
LARGEST_FACTOR = 1000.0
"""From the coarsest thumbnail past what a microscope resolves; more is a slip of the pen."""


@dataclass(frozen=True)
class Rect:
    """A rectangle of pixels.

    Attributes:
        x: left column.
        y: top row.
        width: columns.
        height: rows.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """Gives the first column behind the rectangle."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """Gives the first row below the rectangle."""
        return self.y + self.height


@dataclass(frozen=True)
class Window:
    """One window of the grid.

    Attributes:
        row: index of its row of windows.
        column: index of its column of windows.
        x: leftmost output pixel.
        y: topmost output pixel.
    """

    row: int
    column: int
    x: int
    y: int


@dataclass(frozen=True)
class Axis:
    """Windows along one axis.

    Attributes:
        size: output pixels of the whole slide along this axis.
        window: side of a window in output pixels.
        overlap: output pixels that neighbouring windows share.
        view_size: view pixels of the whole slide along this axis.
    """

    size: int
    window: int
    overlap: int
    view_size: int = 0

    @property
    def stride(self) -> int:
        """Gives the distance of neighbouring windows."""
        return self.window - self.overlap

    @property
    def count(self) -> int:
        """Counts the windows that cover the axis; the last reaches its end or beyond."""
        return max(1, math.ceil((self.size - self.window) / self.stride) + 1)

    def cell(self, index: int) -> tuple[int, int]:
        """Gives start and end of the output pixels that are finished with window `index`."""
        start = index * self.stride
        last = index == self.count - 1
        return start, self.size if last else start + self.stride

    def cell_at(self, position: int) -> int:
        """Gives the index of the cell that holds an output pixel."""
        return min(position // self.stride, self.count - 1)

    def needed(self, start: int, end: int) -> tuple[int, int]:
        """Gives the first and the last window that output pixels start..end-1 depend on."""
        first, last = self.cell_at(start), self.cell_at(end - 1)
        # a cell's leading overlap blends with the window before it
        blends = first > 0 and start < first * self.stride + self.overlap
        return first - blends, last


@dataclass(frozen=True)
class Plan:
    """What is computed: a region of the upscaled slide as windows of the global grid.

    Attributes:
        view_width: columns of the resolution that is upscaled.
        view_height: rows of the resolution that is upscaled.
        scale: output px for each view px, > 1.
        region: wanted part of the upscaled slide, in output px.
        window: side of the windows in output px.
        overlap: output px that neighbouring windows share.
    """

    view_width: int
    view_height: int
    scale: float
    region: Rect
    window: int = 512
    overlap: int = 64

    @cached_property
    def columns(self) -> Axis:
        """Gives the grid's horizontal axis."""
        return self._axis(self.view_width)

    @cached_property
    def rows(self) -> Axis:
        """Gives the grid's vertical axis."""
        return self._axis(self.view_height)

    def _axis(self, view_size: int) -> Axis:
        return Axis(target_size(view_size, self.scale), self.window, self.overlap, view_size)

    @cached_property
    def window_rows(self) -> range:
        """Gives the rows of windows that the region depends on."""
        first, last = self.rows.needed(self.region.y, self.region.bottom)
        return range(first, last + 1)

    @cached_property
    def window_columns(self) -> range:
        """Gives the columns of windows that the region depends on."""
        first, last = self.columns.needed(self.region.x, self.region.right)
        return range(first, last + 1)

    def windows(self) -> Iterator[Window]:
        """Yields all windows, row by row from the top left."""
        for row in self.window_rows:
            for column in self.window_columns:
                yield Window(row, column, column * self.columns.stride, row * self.rows.stride)

    def __len__(self) -> int:
        return len(self.window_rows) * len(self.window_columns)


def target_size(size: int, scale: float) -> int:
    """Gives the output pixels of `size` view pixels; at least one."""
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
    """Checks the numbers and lays out the windows.

    Args:
        view_width: columns of the resolution that is upscaled.
        view_height: rows of the resolution that is upscaled.
        scale: output px for each view px, > 1.
        region: part of the view to upscale, in view px; the whole by default.
        window: side of a window in output px, a multiple of 64, at most 16384.
        overlap: a multiple of 8, at most half the window: the latent grid has 8 px, and no pixel
            is shared by more than two windows along an axis.

    Raises:
        OptionError: any of these does not hold, or the region lies outside.
    """
    check_factor(scale)
    if not WINDOW_MULTIPLE <= window <= LARGEST_WINDOW or window % WINDOW_MULTIPLE:
        rule = f"must be a multiple of {WINDOW_MULTIPLE}, at most {LARGEST_WINDOW}"
        raise OptionError("window", window, rule)
    if overlap < 0 or overlap % LATENT_PX or overlap > window // 2:
        raise OptionError(
            "overlap", overlap, f"must be a multiple of {LATENT_PX}, at most {window // 2}"
        )
    if region is None:
        region = Rect(0, 0, view_width, view_height)
    _check_region(region, view_width, view_height, "there")
    x, y = round(region.x * scale), round(region.y * scale)
    right = min(round(region.right * scale), target_size(view_width, scale))
    bottom = min(round(region.bottom * scale), target_size(view_height, scale))
    output = Rect(x, y, max(1, right - x), max(1, bottom - y))
    return Plan(view_width, view_height, scale, output, window, overlap)


def check_factor(scale: float) -> None:
    """Checks that a scale enlarges, and within reason.

    Raises:
        OptionError: it does not.
    """
    if not 1 < scale <= LARGEST_FACTOR:
        rule = f"must be greater than 1, and at most {LARGEST_FACTOR:g}"
        raise OptionError("scale", scale, rule)


def scaled_region(region: Rect, downsample: float, width: int, height: int) -> Rect:
    """Turns a region in level-0 px into one in the px of a view.

    Args:
        region: a rectangle in level-0 px.
        downsample: level-0 px for each view px.
        width: columns of the view.
        height: rows of the view.

    Returns:
        The view pixels that the region touches, at least one.

    Raises:
        OptionError: the region has no area or reaches outside the slide.
    """
    _check_region(region, round(width * downsample), round(height * downsample), "at level 0")
    x, y = int(region.x / downsample), int(region.y / downsample)
    right = min(width, max(x + 1, math.ceil(region.right / downsample - 1e-9)))
    bottom = min(height, max(y + 1, math.ceil(region.bottom / downsample - 1e-9)))
    x, y = min(x, width - 1), min(y, height - 1)
    return Rect(x, y, right - x, bottom - y)


def _check_region(region: Rect, width: int, height: int, where: str) -> None:
    """Checks that a region has an area inside width x height px.

    Raises:
        OptionError: it has none, or reaches outside.
    """
    given = f"{region.x},{region.y},{region.width},{region.height}"
    if region.width < 1 or region.height < 1:
        raise OptionError("region", given, "has no area")
    if region.x < 0 or region.y < 0 or region.right > width or region.bottom > height:
        raise OptionError(
            "region", given, f"reaches outside the slide, which has {width}x{height} px {where}"
        )
