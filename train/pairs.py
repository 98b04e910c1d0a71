"""Pairs of low and high resolution, as a function of the iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from train.data import TileSet, batch_rng, part, random_crops
from train.degradation import degrade, vary_sharpness
from train.loop import LoopConfig


@dataclass(frozen=True)
class PairConfig:
    """What the trainings on pairs of crops share.

    Attributes:
        batch: crops an iteration and process.
        crop: side of a crop in px.
        scales: one is drawn for each iteration, with probability `scale_weights`.
        degradation: see `train.degradation.degrade`.
        sharpness: range of amounts for `train.degradation.vary_sharpness`; none at (0, 0).
        loop: see `LoopConfig`.
    """

    batch: int = 8
    crop: int = 128
    scales: tuple[int, ...] = (2, 4, 8)
    scale_weights: tuple[float, ...] = (0.1, 0.45, 0.45)
    degradation: str = "scanner"
    sharpness: tuple[float, float] = (0.0, 0.0)
    loop: LoopConfig = field(default_factory=LoopConfig)


def draw_scale(seed: int, iteration: int, scales: Sequence[int], weights: Sequence[float]) -> int:
    """The scale of an iteration: the same on all processes, so that they work on equal shapes."""
    chance = batch_rng(seed, iteration, 2**31).random()
    edges = torch.tensor(weights).cumsum(0)
    return scales[int((chance * edges[-1] >= edges).sum())]


def make_pair(config: PairConfig, tiles: TileSet, iteration: int) -> tuple[Tensor, Tensor, int]:
    """The present part of an iteration's batch.

    Returns:
        Low resolution (B, 3, crop / scale, crop / scale), high resolution (B, 3, crop, crop), both
        in [0, 1], and the scale.
    """
    rng = batch_rng(config.loop.seed, iteration, part())
    scale = draw_scale(config.loop.seed, iteration, config.scales, config.scale_weights)
    hr = random_crops(tiles, rng, config.batch, config.crop)
    if any(config.sharpness):
        hr = vary_sharpness(hr, rng, config.sharpness)
    return degrade(hr, scale, rng, config.degradation), hr, scale
