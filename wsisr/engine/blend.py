"""From overlapping windows to finished output pixels, in one pass and little memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr.errors import ModelError
from wsisr.plan import Plan, Window
from wsisr_kernels import blend_cell, blend_ramp


@dataclass(frozen=True)
class Cell:
    """Finished output pixels.

    Attributes:
        x: left column, in the pixels of the whole output slide.
        y: top row, likewise.
        pixels: uint8 (h, w, 3), the caller's to keep.
    """

    x: int
    y: int
    pixels: NDArray[np.uint8]


class CellBlender:
    """Turns the windows of a plan, in the plan's order, into cells that tile its region.

    The cell of window (row, column) holds the pixels up to the next window's start (to the
    slide's edge for the last). It is a weighted sum of at most four windows: that one, and the
    ones above and to the left of it, which reach into its first `overlap` rows and columns. Cells
    are cropped to the plan's region; together they cover each of its pixels once. Every value
    depends on those windows alone, not on the region or on what was computed before, so a run is
    taken up again with a plan whose region is what is missing. The arithmetic is that of
    `wsisr_kernels.blend_cell`, the same bits on every device.

    Memory: 12 * overlap bytes for every column of pixels of the region's windows (the lowest rows
    of the last row of windows, blended sideways), such strips of at most two windows more, and
    12 * window * overlap (the right columns of the last window); nothing grows with the height.

    Args:
        plan: the windows and the region.
        device: where the blending runs; windows from elsewhere are moved there.
    """

    def __init__(self, plan: Plan, device: str | torch.device = "cpu") -> None:
        self._plan = plan
        self._device = torch.device(device)
        self._order = plan.windows()
        self._ramp = torch.from_numpy(blend_ramp(plan.overlap)).to(self._device)
        self._above: dict[int, torch.Tensor] = {}
        self._left: torch.Tensor | None = None
        self._spare: list[torch.Tensor] = []

    def push(self, row: int, column: int, window: NDArray | torch.Tensor) -> Cell | None:
        """Adds the next window of the plan.

        Args:
            row: row of the window on the grid.
            column: column of the window on the grid.
            window: (window, window, 3) in 0..255, float32, or uint8 as it is for glass. It is not
                kept and may be overwritten afterwards.

        Returns:
            The cell that is now finished; None where it lies outside the region and the window
            only reaches into its neighbours.

        Raises:
            ModelError: the window has a value that is not finite.
            ValueError: it is not the plan's next window, or has another shape or type.
        """
        plan = self._plan
        expected = next(self._order, None)
        if expected is None or (expected.row, expected.column) != (row, column):
            raise ValueError(f"window ({row}, {column}) came where the plan has {expected}")
        if tuple(window.shape) != (plan.window, plan.window, 3):
            raise ValueError(f"window ({row}, {column}) has the shape {tuple(window.shape)}")
        tensor = window if isinstance(window, torch.Tensor) else _as_tensor(window)
        tensor = tensor.to(self._device).contiguous()

        x, right = plan.columns.cell(column)
        y, bottom = plan.rows.cell(row)
        out = torch.empty((bottom - y, right - x, 3), dtype=torch.uint8, device=self._device)
        above = self._above.pop(column, None)
        below = self._strip(right - x) if row + 1 in plan.window_rows else None
        if not blend_cell(tensor, self._left, above, self._ramp, out, below):
            raise ModelError(
                f"window ({row}, {column}) at output pixel {expected.x},{expected.y}: the model "
                "gave values that are not finite; try <precision> fp32"
            )
        if above is not None:
            self._spare.append(above)
        if below is not None:
            self._above[column] = below
        self._keep_right(tensor, column)
        return self._cropped(expected, out)

    def _strip(self, width: int) -> torch.Tensor:
        shape = (self._plan.overlap, width, 3)
        for index, strip in enumerate(self._spare):
            if tuple(strip.shape) == shape:
                return self._spare.pop(index)
        return torch.empty(shape, dtype=torch.float32, device=self._device)

    def _keep_right(self, window: torch.Tensor, column: int) -> None:
        if column + 1 not in self._plan.window_columns:
            self._left = None
            return
        right = window[:, self._plan.columns.stride :]
        if self._left is None:
            self._left = torch.empty(right.shape, dtype=torch.float32, device=self._device)
        self._left.copy_(right)

    def _cropped(self, window: Window, out: torch.Tensor) -> Cell | None:
        region = self._plan.region
        left, top = max(region.x, window.x), max(region.y, window.y)
        pixels = out[
            top - window.y : region.bottom - window.y, left - window.x : region.right - window.x
        ]
        if region.bottom <= window.y or region.right <= window.x or not pixels.numel():
            return None
        return Cell(left, top, pixels.cpu().numpy())


def _as_tensor(window: NDArray) -> torch.Tensor:
    # torch warns of read-only arrays, such as the one value that stands for blank glass
    if not window.flags.writeable:
        window = window.copy()
    return torch.from_numpy(window)
