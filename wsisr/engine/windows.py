"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr.engine.resume import Missing
from wsisr.engine.stream import Stopwatch
from wsisr.models import Sampling, WindowInput
from wsisr.plan import Plan, Window
from wsisr.slides import View
from wsisr.tissue import TissueMask

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ReadWindow:
    """A window with its pixels read: glass is resized already, tissue is ready for the model.

    lr: uint8 (n, m, 3), the view's pixels under the window, from view pixel (left, top) on; None
    where nothing is made of it.
    """

    window: Window
    lr: Pixels | None
    left: int
    top: int
    glass: Pixels | None
    tissue: WindowInput | None


class Readable(Protocol):
    """Anything low-resolution pixels can be read from."""

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB (height, width, 3)."""
        ...


def read_windows(
    plan: Plan, view: View, tissue: TissueMask | None, missing: Missing, clock: Stopwatch
) -> Iterator[ReadWindow]:
    """Read the low-resolution pixels under each window, in the plan's order.

    A window that reaches into finished tiles alone is black: nothing is made of its pixels.
    """
    unused = np.broadcast_to(np.uint8(0), (plan.window, plan.window, 3))
    for window in plan.windows():
        if missing.needs(window, plan.window):
            with clock("reading"):
                item = read_window(plan, view, tissue, window)
            yield item
        else:
            yield ReadWindow(window, None, 0, 0, unused, None)


def find_damage(plan: Plan, view: View, missing: Missing) -> None:
    """Read what this run had no need of, so that the slide notes the damaged tiles there too."""
    for window in plan.windows():
        if not missing.needs(window, plan.window):
            left, right = plan.view_span(window.x, plan.columns)
            top, bottom = plan.view_span(window.y, plan.rows)
            view.read(left, top, right - left, bottom - top)


def read_window(
    plan: Plan, view: Readable, tissue: TissueMask | None, window: Window
) -> ReadWindow:
    """One window: resized at once where there is only glass, else made ready for the model."""
    left, right = plan.view_span(window.x, plan.columns)
    top, bottom = plan.view_span(window.y, plan.rows)
    pixels = view.read(left, top, right - left, bottom - top)
    up_rows, down_rows = plan.sampling(window.y, plan.rows)
    up_columns, down_columns = plan.sampling(window.x, plan.columns)
    if tissue is not None and not tissue.overlaps(left, top, right - left, bottom - top):
        glass = resize_glass(pixels, up_rows, up_columns)
        return ReadWindow(window, pixels, left, top, glass, None)
    lr = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
    rows = Sampling(torch.from_numpy(up_rows), torch.from_numpy(down_rows))
    columns = Sampling(torch.from_numpy(up_columns), torch.from_numpy(down_columns))
    tissue_input = WindowInput(window.x, window.y, lr, rows, columns)
    return ReadWindow(window, pixels, left, top, None, tissue_input)


def resize_glass(pixels: Pixels, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Pixels:
    """Bicubic with the weights (H, h) and (W, w): uint8 (h, w, 3) -> uint8 (H, W, 3)."""
    first = pixels[0, 0]
    if (pixels == first).all():
        return np.broadcast_to(first, (len(rows), len(columns), 3))
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    resized = rows @ planes @ columns.T
    glass: Pixels = np.rint(resized.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0)
    return glass
