"""Judge a model while it trains: the project's own metrics on a few validation tiles.

Pixel losses cannot see what the model is for; these figures can. They choose between recipes and
checkpoints, so they come from the validation slides and never from the test slides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.data import TileSet
from wsisr.engine import upscale_array
from wsisr.evaluation import metrics
from wsisr.evaluation.fidelity import area_downsample, bicubic_upsample
from wsisr.evaluation.naturalness import NIQE_BLOCK
from wsisr.models import Upscaler

FIGURES = (
    "psnr",
    "hf_db",
    "l1_texture",
    "l1_intensity",
    "nuclei_precision",
    "nuclei_recall",
    "niqe",
    "comb_db",
)
WINDOW = 512  # px; a crop of one window less its overlap costs one run of the model
OVERLAP = 64


def judge(
    model: Upscaler | None, tiles: TileSet, scales: Sequence[int], count: int = 8
) -> dict[str, float]:
    """Figures of a model at each scale.

    Args:
        model: what to judge, or None for bicubic.
        tiles: validation tiles; their top-left part of one window is used.
        scales: integer factors.
        count: so many tiles, spread evenly over the list.

    Returns:
        {`METRIC_xSCALE`: mean}; metrics that lack their weights are left out, NIQE also where
        the tiles are smaller than what it is defined for.
    """
    chosen, _ = metrics.available(FIGURES)
    picked = range(0, len(tiles.pixels), max(1, len(tiles.pixels) // count))
    figures = {}
    for scale in scales:
        rows = []
        for index in list(picked)[:count]:
            tile = tiles.pixels[index]
            side = min(WINDOW - OVERLAP, *tile.shape[:2]) // (2 * scale) * 2 * scale
            hr = np.ascontiguousarray(tile[:side, :side])
            lr = area_downsample(hr, scale)
            if model is None:
                sr = bicubic_upsample(lr, scale)
            else:
                sr = upscale_array(lr, scale, model=model, tile=WINDOW, overlap=OVERLAP)
            usable = [m for m in chosen if m.name != "niqe" or side >= 2 * NIQE_BLOCK]
            rows.append(metrics.measure_tile(metrics.Sample(sr, metrics.Scan(hr), lr), usable))
        for name, value in metrics.summarize(rows).items():
            figures[f"{name}_x{scale}"] = round(value, 4)
    return figures
