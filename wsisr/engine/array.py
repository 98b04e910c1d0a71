"""Upscaling an image in memory by the same windows, model and blending as a slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wsisr.engine.blend import Cell, CellBlender
from wsisr.engine.exact import aligned_overlap, check_exact, fit_cell
from wsisr.engine.executor import InProcess
from wsisr.engine.limits import check_scale
from wsisr.engine.runner import single_sample
from wsisr.engine.stream import Stopwatch
from wsisr.engine.windows import InMemory, Pixels, ReadWindow, WindowReader
from wsisr.models import Upscaler, load_upscaler, pick_device
from wsisr.plan import Plan, make_plan


def upscale_image(
    image: Pixels,
    scale: float,
    *,
    model: str | Path | Upscaler = "tiny",
    device: str | None = None,
    window: int = 512,
    overlap: int = 64,
    exact: bool = False,
    force: bool = False,
    **settings: Any,
) -> Pixels:
    """Upscales an image in memory by the same windows, model and blending as a slide.

    Args:
        image: uint8 RGB (h, w, 3).
        scale: output px for each input px, > 1.
        model: name or folder as in `Job`, or a loaded model, which is taken as it is.
        device: see `Job`.
        window: side of the windows in output px, a multiple of 64.
        overlap: output px that neighbouring windows share.
        exact: whether the finished bytes are fitted to the input; the setting `consistency` asks
            for the same.
        force: whether scales are allowed that the model was not trained for.
        **settings: overrides of the model's own settings.

    Returns:
        uint8 RGB (round(h * scale), round(w * scale), 3).

    Raises:
        WsisrError: what is wrong with which option.
    """
    check_scale(scale, model, force=force)
    exact = exact or settings.get("consistency") == "exact"
    if exact:
        overlap = aligned_overlap(window, overlap, check_exact(scale, lossless=True))
    plan = make_plan(image.shape[1], image.shape[0], scale, window=window, overlap=overlap)
    if isinstance(model, str | Path):
        model = load_upscaler(
            str(model), device=pick_device(device), settings=settings, scale=scale
        )
    reader = WindowReader(plan, InMemory(image), None)
    out = np.empty((plan.region.height, plan.region.width, 3), np.uint8)
    with InProcess(single_sample(model), model.device, None, Stopwatch()) as executor:
        blender = CellBlender(plan, executor.device)
        for item, computed in executor.map(map(reader.read, plan.windows())):
            cell = blender.push(item.window.row, item.window.column, computed.pixels)
            if cell is not None:
                _place(out, cell, item, plan, exact=exact)
    return out


def _place(out: Pixels, cell: Cell, item: ReadWindow, plan: Plan, *, exact: bool) -> None:
    """Puts a finished cell where it belongs."""
    if exact and item.lr is not None:
        fit_cell(cell, item.lr, item.left, item.top, round(plan.scale))
    height, width = cell.pixels.shape[:2]
    out[cell.y : cell.y + height, cell.x : cell.x + width] = cell.pixels
