"""Judges a model while it trains: the project's own metrics on a few validation tiles.

Pixel losses cannot see what the model is for; these figures can. They choose between recipes and
checkpoints, so they come from the validation slides and never from the test slides.

The packages that read and write slides, and those the metrics need, are imported only here and only
when they are used: a machine with little more than torch and diffusers on it can train, too.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import TileSet, to_tensor
from wsisr.errors import UsageError
from wsisr.models import from_pretrained, pick_device

log = logging.getLogger("train")

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
WINDOW, OVERLAP = 512, 64
"""Pixels; a crop of one window less its overlap costs one run of the model."""
EXAMPLE = 256
"""Side of the pictures in px."""


def judge_model(
    folder: Path | None,
    tiles: TileSet,
    scales: Sequence[int],
    count: int = 8,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Measures a model at each scale.

    Args:
        folder: the model to judge, or None for bicubic.
        tiles: validation tiles; their top-left part of one window is used.
        scales: integer factors; 2, where bicubic comes close, is judged only if it is alone.
        count: number of tiles, spread evenly over the list.
        device: where the model runs; by default the first GPU, and else the CPU.

    Returns:
        {`METRIC_xSCALE`: mean}; metrics that lack their weights, or that such tiles are too small
        for, are left out, and all of them where wsisr's packages are not installed.

    Raises:
        UsageError: there are no tiles to judge by.
    """
    if count < 1:
        raise UsageError(f"judged {count}: must be 1 or more validation tiles")
    try:
        from wsisr.engine import upscale_image
        from wsisr.evaluation.measures import (
            NIQE_BLOCK,
            Sample,
            Scan,
            available_metrics,
            measure_tile,
            summarize,
        )
        from wsisr.resize import bicubic_upsample
    except ModuleNotFoundError as error:
        log.info("not judged: the package %s is missing", error.name)
        return {}
    chosen, _ = available_metrics(FIGURES)
    picked = range(0, len(tiles.pixels), max(1, len(tiles.pixels) // count))
    figures = {}
    for scale in [scale for scale in scales if scale > 2] or scales:
        rows = []
        if folder is not None:
            model = from_pretrained(folder, device=device or pick_device(None), scale=scale)
        for index in list(picked)[:count]:
            hr, lr = _pair(tiles, index, scale, WINDOW - OVERLAP)
            fitting = [m for m in chosen if m.name != "niqe" or min(hr.shape[:2]) >= 2 * NIQE_BLOCK]
            if folder is None:
                sr = bicubic_upsample(lr, scale)
            else:
                sr = upscale_image(lr, scale, model=model, window=WINDOW, overlap=OVERLAP)
            rows.append(measure_tile(Sample(sr, Scan(hr), lr), fitting))
        for name, value in summarize(rows).items():
            figures[f"{name}_x{scale}"] = round(value, 4)
    return figures


def example_images(folder: Path, tiles: TileSet, scale: int, count: int = 4) -> dict[str, Tensor]:
    """Runs a model folder on some validation tiles, for `train.loop.pictures`.

    Args:
        folder: the model.
        tiles: validation tiles; their top-left corners of at most `EXAMPLE` px are used.
        scale: integer factor.
        count: number of tiles, spread evenly over the list.

    Returns:
        `LR`, `restored` (stage 1 alone, where there is a stage 2), `result` and `HR`, each
        (count, 3, h, w) float32 in [0, 1]; none where wsisr's packages are not installed.
    """
    try:
        from wsisr.engine import upscale_image
    except ModuleNotFoundError:
        return {}
    device = pick_device(None)
    models = {"result": from_pretrained(folder, device=device, scale=scale)}
    if models["result"].second is not None:
        stage1 = from_pretrained(folder, device=device, settings={"fidelity": 1.0}, scale=scale)
        models = {"restored": stage1, **models}
    columns: dict[str, list[NDArray[np.uint8]]] = {}
    for index in range(min(count, len(tiles.pixels))):
        hr, lr = _pair(tiles, index * len(tiles.pixels) // count, scale, EXAMPLE)
        columns.setdefault("LR", []).append(lr)
        for name, model in models.items():
            sr = upscale_image(lr, scale, model=model, window=EXAMPLE, overlap=0)
            columns.setdefault(name, []).append(sr)
        columns.setdefault("HR", []).append(hr)
    return {name: to_tensor(np.stack(images)) for name, images in columns.items()}


def _pair(
    tiles: TileSet, index: int, scale: int, most: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Takes the top-left part of a tile, at most `most` px a side, and its box means."""
    from wsisr.resize import area_downsample

    tile = tiles.pixels[index]
    side = min(most, *tile.shape[:2]) // (2 * scale) * 2 * scale
    hr = np.ascontiguousarray(tile[:side, :side])
    return hr, area_downsample(hr, scale)
