"""Pairs of low and high resolution, as a function of the iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from train.config import STRICT_KEYS, Count, Factor, Fraction, Integer, Number, Weight
from train.data.degradation import Degradation, degrade
from train.data.feed import Feed, batch_part, batch_rng
from train.data.tiles import TileSet, random_crops
from train.data.variation import vary_dyes, vary_sharpness, vary_stain
from train.errors import require
from train.loop import LoopConfig
from wsisr.models.light import FACTOR


@dataclass(frozen=True, config=STRICT_KEYS)
class PairConfig:
    """What the trainings on pairs of crops share.

    Attributes:
        batch: crops an iteration and process.
        crop: side of a crop in px.
        scales: one is drawn for each iteration, with probability `scale_weights`.
        scale_weights: one for each of the scales; they need not sum to one.
        degradation: see `train.data.degradation.degrade`.
        sharpness: range of amounts for `train.data.variation.vary_sharpness`; none at (0, 0).
        magnification: see `train.data.tiles.random_crops`; none at 1.
        enlargement: that of `train.data.tiles.random_crops`, per scale: at 2 an input may have
            twice the pixels a side that its optics resolve; none at 0.
        stain: largest factor of `train.data.variation.vary_stain`; none at 1.
        dyes: part of the crops that `train.data.variation.vary_dyes` gives other dyes.
        loop: see `LoopConfig`.
    """

    batch: Count = 8
    crop: Count = 128
    scales: tuple[Integer, ...] = (2, 4, 8)
    scale_weights: tuple[Number, ...] = (0.1, 0.45, 0.45)
    degradation: Degradation = "scanner"
    sharpness: tuple[Annotated[Number, Field(ge=-1)], Number] = (0.0, 0.0)
    magnification: Factor = 1.0
    enlargement: Weight = 0.0
    stain: Factor = 1.0
    dyes: Fraction = 0.0
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_scales(self.scales, self.scale_weights)
        sides = (FACTOR, *self.scales)
        good = not any(self.crop % side for side in sides)
        require(good, f"crop {self.crop}: must be a multiple of {', '.join(map(str, sides))}")
        low, high = self.sharpness
        require(low <= high, f"sharpness [{low:g}, {high:g}]: must rise")


def check_scales(scales: Sequence[int], weights: Sequence[float]) -> None:
    """Checks that there are scales, and a weight for each of them.

    Raises:
        UsageError: a number is missing or out of its range.
    """
    good = scales and all(scale >= 1 for scale in scales)
    require(bool(good), f"scales {list(scales)}: must be one or more factors of 1 or more")
    good = len(weights) == len(scales) and min(weights) >= 0 and sum(weights) > 0
    require(bool(good), f"scale_weights {list(weights)}: must be a weight for each of the scales")


def crop_to_multiple(images: Tensor, side: int) -> Tensor:
    """Crops images (..., h, w) at the top left, to sides that are multiples of `side` px."""
    height, width = (n // side * side for n in images.shape[-2:])
    return images[..., :height, :width]


def pair_feed(
    config: PairConfig, tiles: TileSet, workers: int
) -> Callable[[int], tuple[Tensor, Tensor, int]]:
    """Gives `make_pair` as a function of the iteration, ahead of time in `workers` processes."""
    return Feed(partial(make_pair, config, tiles), workers, config.loop.accumulate)


def draw_scale(seed: int, iteration: int, scales: Sequence[int], weights: Sequence[float]) -> int:
    """Draws the scale of an iteration: the same on all processes, which need equal shapes."""
    chance = batch_rng(seed, iteration, 2**31).random()
    edges = torch.tensor(weights).cumsum(0)
    return scales[int((chance * edges[-1] >= edges).sum())]


def make_pair(config: PairConfig, tiles: TileSet, iteration: int) -> tuple[Tensor, Tensor, int]:
    """Makes the present part of an iteration's batch.

    Args:
        config: sizes, scales, degradation and variations.
        tiles: where the crops are taken from.
        iteration: counted from 0.

    Returns:
        Low resolution (B, 3, crop / scale, crop / scale), high resolution (B, 3, crop, crop), both
        float32 in [0, 1], and the scale.
    """
    rng = batch_rng(config.loop.seed, iteration, batch_part())
    scale = draw_scale(config.loop.seed, iteration, config.scales, config.scale_weights)
    enlargement = config.enlargement * scale
    hr = random_crops(tiles, rng, config.batch, config.crop, config.magnification, enlargement)
    if any(config.sharpness):
        hr = vary_sharpness(hr, rng, config.sharpness)
    if config.stain > 1:
        hr = vary_stain(hr, rng, config.stain)
    if config.dyes:
        hr = vary_dyes(hr, rng, config.dyes)
    return degrade(hr, scale, rng, config.degradation), hr, scale
