"""TODO-DOC"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsisr.engine.blend import CellBlender
from wsisr.engine.exact import aligned_overlap, check_exact
from wsisr.engine.executor import Runner, default_batch, run_model
from wsisr.engine.prepare import one_sample
from wsisr.engine.run import fit
from wsisr.engine.stream import Stopwatch
from wsisr.engine.windows import Pixels, read_window
from wsisr.models import Upscaler, load_upscaler, pick_device
from wsisr.plan import make_plan


@dataclass(frozen=True)
class _InMemory:
    pixels: Pixels

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        return self.pixels[y : y + height, x : x + width]


def upscale_array(
    lr: Pixels,
    scale: float,
    *,
    model: str | Upscaler = "tiny",
    device: str | None = None,
    window: int = 512,
    overlap: int = 64,
    exact: bool = False,
    **settings: Any,
) -> Pixels:
    """Upscale an image in memory by the same windows, model and blending as a slide.

    Args:
        lr: uint8 RGB (h, w, 3).
        scale: > 1.
        model, device, window, overlap: see `Job`; a model that is loaded already is taken as it is.
        exact: fit the finished bytes to the input; so does the setting `consistency`.
        settings: overrides of the model's own settings.

    Returns:
        uint8 RGB (round(h * scale), round(w * scale), 3).

    Raises:
        WsisrError: what is wrong with which option.
    """
    exact = exact or settings.get("consistency") == "exact"
    if exact:
        overlap = aligned_overlap(window, overlap, check_exact(scale, lossless=True))
    plan = make_plan(lr.shape[1], lr.shape[0], scale, window=window, overlap=overlap)
    if isinstance(model, str):
        model = load_upscaler(model, device=pick_device(device), settings=settings, scale=scale)
    clock = Stopwatch()
    out = np.empty((plan.region.height, plan.region.width, 3), np.uint8)
    blender = CellBlender(plan)
    reading = (read_window(plan, _InMemory(lr), None, window) for window in plan.windows())
    with Runner(one_sample(model), model.device, default_batch(model.device)) as runner:
        for item, image in run_model(reading, runner, clock):
            cell = blender.push(item.window.row, item.window.column, image.pixels)
            if cell is None:
                continue
            if exact:
                fit(item, plan, cell)
            height, width = cell.pixels.shape[:2]
            out[cell.y : cell.y + height, cell.x : cell.x + width] = cell.pixels
    return out
