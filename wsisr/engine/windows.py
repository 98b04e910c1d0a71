"""Reading the low-resolution pixels under the windows: glass is resized, tissue made ready.

Glass costs no model call; where it is one colour it costs no arithmetic either. Plans count windows
by this module before anything is computed, so torch is imported where tensors are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.resume import Missing
from wsisr.engine.stream import Stopwatch
from wsisr.plan import Axis, Plan, Window
from wsisr.resize import AxisWeights, axis_weights, cubic_span

if TYPE_CHECKING:
    from wsisr.models import Sampling, WindowInput
    from wsisr.tissue import TissueMask

Pixels = NDArray[np.uint8]
CACHED_COLUMNS = 64
"""Columns of windows whose weights are kept: half a megabyte each for windows of 512 px."""


@dataclass(frozen=True)
class ReadWindow:
    """A window with its pixels read.

    Attributes:
        window: its place.
        lr: uint8 (n, m, 3), the view's pixels under the window; None where nothing is made of it.
        left: view column of the first of them.
        top: view row of the first of them.
        glass: uint8 (window, window, 3), the finished pixels where there is no tissue, else None.
        tissue: what the model needs where there is tissue, else None.
    """

    window: Window
    lr: Pixels | None
    left: int
    top: int
    glass: Pixels | None
    tissue: WindowInput | None


class Readable(Protocol):
    """Anything that low-resolution pixels can be read from."""

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Reads a region as uint8 RGB (height, width, 3)."""
        ...


@dataclass(frozen=True)
class InMemory:
    """An image in memory as something to read from.

    Attributes:
        pixels: uint8 (h, w, 3).
    """

    pixels: Pixels

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Gives a region, which must lie inside the image."""
        return self.pixels[y : y + height, x : x + width]


class WindowGeometry:
    """The weights between the windows of a plan and the pixels under them.

    They are those of a window's row and of its column, worked out once a row and, for up to 64
    columns, once a column.

    Memory: the weights of 64 columns and one row, each `8 * window**2 / scale` bytes.
    """

    def __init__(self, plan: Plan) -> None:
        def weights(axis: Axis, start: int) -> AxisWeights:
            return axis_weights(start, axis.window, axis.size, plan.scale, axis.view_size)

        rows, columns = plan.rows, plan.columns
        self._rows = lru_cache(1)(lambda y: weights(rows, y))
        self._columns = lru_cache(CACHED_COLUMNS)(lambda x: weights(columns, x))

    def weights(self, window: Window) -> tuple[AxisWeights, AxisWeights]:
        """Gives the weights of a window's rows and of its columns."""
        return self._rows(window.y), self._columns(window.x)

    def model_input(self, window: Window, pixels: Pixels) -> WindowInput:
        """Makes a window ready for the model.

        Args:
            window: its place.
            pixels: uint8 (n, m, 3), the view's pixels under it.
        """
        import torch

        from wsisr.models import WindowInput

        rows, columns = self.weights(window)
        lr = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
        return WindowInput(window.x, window.y, lr, as_sampling(rows), as_sampling(columns))


class WindowReader:
    """Reads the windows of a plan from a source.

    Args:
        plan: the windows.
        source: the view, or an image in memory.
        tissue: where the model runs; None is everywhere.
    """

    def __init__(self, plan: Plan, source: Readable, tissue: TissueMask | None) -> None:
        self._geometry, self._source, self._tissue = WindowGeometry(plan), source, tissue

    def read(self, window: Window) -> ReadWindow:
        """Reads one window."""
        rows, columns = self._geometry.weights(window)
        left, top = columns.start, rows.start
        width, height = columns.stop - left, rows.stop - top
        pixels = self._source.read(left, top, width, height)
        if self._tissue is not None and not self._tissue.overlaps(left, top, width, height):
            return ReadWindow(window, pixels, left, top, resize_glass(pixels, rows, columns), None)
        tissue = self._geometry.model_input(window, pixels)
        return ReadWindow(window, pixels, left, top, None, tissue)


def find_tissue_windows(
    plan: Plan, tissue: TissueMask | None, missing: Missing | None = None
) -> NDArray[np.bool_]:
    """Tells which windows of a plan the model is run on, without reading a pixel.

    Args:
        plan: the windows.
        tissue: where the model runs; None is everywhere.
        missing: what of the output is not written yet; None is all of it.

    Returns:
        bool (rows, columns) of the plan's windows.
    """

    def spans(axis: Axis, indices: range) -> list[tuple[int, int]]:
        return [
            cubic_span(index * axis.stride, axis.window, axis.size, plan.scale, axis.view_size)
            for index in indices
        ]

    rows, columns = plan.window_rows, plan.window_columns
    found = np.ones((len(rows), len(columns)), bool)
    if tissue is not None:
        found &= tissue.overlaps_grid(spans(plan.columns, columns), spans(plan.rows, rows))
    if missing is not None and missing.tiles_done:
        needed = [missing.needs(window, plan.window) for window in plan.windows()]
        found &= np.reshape(needed, found.shape)
    return found


def as_sampling(weights: AxisWeights) -> Sampling:
    """Gives the weights of an axis as the model takes them."""
    import torch

    from wsisr.models import Sampling

    return Sampling(torch.from_numpy(weights.up), torch.from_numpy(weights.down))


def read_windows(
    plan: Plan, reader: WindowReader, missing: Missing, clock: Stopwatch
) -> Iterator[ReadWindow]:
    """Reads each window of a plan, in its order.

    A window that reaches into finished tiles alone is black: nothing is made of its pixels.

    Args:
        plan: the windows.
        reader: reads them.
        missing: what of the output is not written yet.
        clock: counts the time as `reading`.
    """
    unused = np.broadcast_to(np.uint8(0), (plan.window, plan.window, 3))
    for window in plan.windows():
        if missing.needs(window, plan.window):
            with clock("reading"):
                item = reader.read(window)
            yield item
        else:
            yield ReadWindow(window, None, 0, 0, unused, None)


def find_damage(plan: Plan, reader: WindowReader, missing: Missing) -> None:
    """Reads what a run had no need of, so that the slide notes the damaged tiles there too."""
    for window in plan.windows():
        if not missing.needs(window, plan.window):
            reader.read(window)


def resize_glass(pixels: Pixels, rows: AxisWeights, columns: AxisWeights) -> Pixels:
    """Resizes a window without tissue by bicubic interpolation.

    Args:
        pixels: uint8 (h, w, 3).
        rows: weights of the window's rows, (H, h).
        columns: weights of the window's columns, (W, w).

    Returns:
        uint8 (H, W, 3); a read-only view of one pixel where all pixels are alike.
    """
    first = pixels[0, 0]
    if (pixels == first).all():
        return np.broadcast_to(first, (len(rows.up), len(columns.up), 3))
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    resized = rows.up @ planes @ columns.up.T
    glass: Pixels = np.rint(resized.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0)
    return glass
