"""TODO-DOC"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsisr.evaluation.measures import Measurement
from wsisr.evaluation.report import TileResult

BOOTSTRAP_DRAWS = 1000


LEAST_GROUPS = 3
"""Slides from which on intervals are drawn over slides instead of tiles."""


def bootstrap(
    results: Sequence[TileResult], methods: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, tuple[float, float]]], str]:
    """Return {method: {metric: 95 % interval of the weighted mean}} and what was drawn.

    See `draw_means`. NaN where nothing is defined.
    """
    means, unit = draw_means(results, methods, seed)
    return {m: {name: interval(d) for name, d in found.items()} for m, found in means.items()}, unit


def interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile interval of what was drawn, of what of it is defined."""
    defined = draws[np.isfinite(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (math.nan, math.nan)
    return float(low), float(high)


def draw_means(
    results: Sequence[TileResult], methods: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, npt.NDArray[np.float64]]], str]:
    """Return {method: {metric: BOOTSTRAP_DRAWS weighted means}} and what was drawn.

    Slides are drawn where there are at least three, since tiles of one slide resemble each other;
    else tiles. The same are drawn for all methods and metrics, so that draws can be compared one by
    one. NaN where nothing that was drawn is defined.
    """
    groups = sorted({tile.place.group for tile in results})
    by_slide = len(groups) >= LEAST_GROUPS
    units = [[i for i, tile in enumerate(results) if tile.place.group == group] for group in groups]
    if not by_slide:
        units = [[i] for i in range(len(results))]
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(units), (BOOTSTRAP_DRAWS, len(units)))
    drawn: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for method in methods:
        drawn[method] = {}
        rows = [tile.values.get(method, {}) for tile in results]
        for name in dict.fromkeys(name for row in rows for name in row):
            pairs = [row.get(name, Measurement(math.nan)) for row in rows]
            values = np.array([p.value for p in pairs])
            weights = np.array([p.weight for p in pairs]) * np.isfinite(values)
            products = np.where(np.isfinite(values), values, 0.0) * weights
            sums = np.array([[products[u].sum(), weights[u].sum()] for u in units])
            total = sums[draws].sum(axis=1)
            known = total[:, 1] > 0
            drawn[method][name] = np.full(BOOTSTRAP_DRAWS, math.nan)
            drawn[method][name][known] = total[known, 0] / total[known, 1]
    return drawn, "slides" if by_slide else "tiles"
