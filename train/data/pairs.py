"""Pairs of low and high resolution, as a function of the iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from train.data.degradation import KINDS, degrade, vary_dyes, vary_sharpness, vary_stain
from train.data.tiles import Feed, TileSet, batch_rng, part, random_crops
from train.errors import require
from train.loop import LoopConfig
from wsisr.models.networks import FACTOR


@dataclass(frozen=True)
class PairConfig:
    """What the trainings on pairs of crops share.

    Attributes:
        batch: crops an iteration and process.
        crop: side of a crop in px.
        scales: one is drawn for each iteration, with probability `scale_weights`.
        degradation: see `train.data.degradation.degrade`.
        sharpness: range of amounts for `train.data.degradation.vary_sharpness`; none at (0, 0).
        magnification: see `train.data.tiles.random_crops`; none at 1.
        enlargement: that of `train.data.tiles.random_crops`, per scale: at 2 an input may have twice the
            pixels a side that its optics resolve; none at 0.
        stain: largest factor of `train.data.degradation.vary_stain`; none at 1.
        dyes: part of the crops that `train.data.degradation.vary_dyes` gives other dyes.
        loop: see `LoopConfig`.
    """

    batch: int = 8
    crop: int = 128
    scales: tuple[int, ...] = (2, 4, 8)
    scale_weights: tuple[float, ...] = (0.1, 0.45, 0.45)
    degradation: str = "scanner"
    sharpness: tuple[float, float] = (0.0, 0.0)
    magnification: float = 1.0
    enlargement: float = 0.0
    stain: float = 1.0
    dyes: float = 0.0
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        require(self.batch >= 1, f"batch {self.batch}: must be 1 or more")
        check_scales(self.scales, self.scale_weights)
        sides = (FACTOR, *self.scales)
        good = self.crop > 0 and not any(self.crop % side for side in sides)
        require(good, f"crop {self.crop}: must be a multiple of {', '.join(map(str, sides))}")
        kinds = ", ".join(KINDS)
        require(self.degradation in KINDS, f"degradation {self.degradation!r}: not one of {kinds}")
        low, high = self.sharpness
        require(-1 <= low <= high, f"sharpness [{low:g}, {high:g}]: must rise, from -1 or more")
        for name, least in (("magnification", 1), ("enlargement", 0), ("stain", 1)):
            value = getattr(self, name)
            require(value >= least, f"{name} {value:g}: must be {least} or more")
        require(0 <= self.dyes <= 1, f"dyes {self.dyes:g}: must be from 0 to 1")


def check_scales(scales: Sequence[int], weights: Sequence[float]) -> None:
    """Raise UsageError unless scales and their weights do."""
    good = scales and all(scale >= 1 for scale in scales)
    require(bool(good), f"scales {list(scales)}: must be one or more factors of 1 or more")
    good = len(weights) == len(scales) and min(weights) >= 0 and sum(weights) > 0
    require(bool(good), f"scale_weights {list(weights)}: must be a weight for each of the scales")


def whole(images: Tensor, side: int) -> Tensor:
    """The top-left part of images (..., h, w) whose sides are multiples of `side` px."""
    height, width = (n // side * side for n in images.shape[-2:])
    return images[..., :height, :width]


def pair_feed(
    config: PairConfig, tiles: TileSet, workers: int
) -> Callable[[int], tuple[Tensor, Tensor, int]]:
    """`make_pair` as a function of the iteration, ahead of time in `workers` processes."""
    return Feed(partial(make_pair, config, tiles), workers, config.loop.accumulate)


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
    enlargement = config.enlargement * scale
    hr = random_crops(tiles, rng, config.batch, config.crop, config.magnification, enlargement)
    if any(config.sharpness):
        hr = vary_sharpness(hr, rng, config.sharpness)
    if config.stain > 1:
        hr = vary_stain(hr, rng, config.stain)
    if config.dyes:
        hr = vary_dyes(hr, rng, config.dyes)
    return degrade(hr, scale, rng, config.degradation), hr, scale
