"""Intervals of means over tiles, by the bootstrap."""

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
UNDEFINED = Measurement(math.nan)


def bootstrap(
    results: Sequence[TileResult], methods: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, tuple[float, float]]], str]:
    """Gives the 95 % interval of every weighted mean; see `draw_means`.

    Args:
        results: the tiles.
        methods: names of the methods.
        seed: seed of the draws.

    Returns:
        {method: {metric: (low, high)}}, NaN where nothing is defined, and what was drawn.
    """
    means, unit = draw_means(results, methods, seed)
    return {m: {name: interval(d) for name, d in found.items()} for m, found in means.items()}, unit


def interval(draws: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Gives the 95 % percentile interval of what of the draws is defined.

    Args:
        draws: values, NaN where they are not defined.

    Returns:
        (low, high), NaN where nothing is defined.
    """
    defined = draws[np.isfinite(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if defined.size else (math.nan, math.nan)
    return float(low), float(high)


def draw_means(
    results: Sequence[TileResult], methods: Sequence[str], seed: int
) -> tuple[dict[str, dict[str, npt.NDArray[np.float64]]], str]:
    """Draws weighted means by the bootstrap.

    Slides are drawn where there are at least three, since tiles of one slide resemble each other;
    else tiles. The same are drawn for all methods and metrics, so that draws can be compared one by
    one.

    Args:
        results: the tiles.
        methods: names of the methods.
        seed: seed of the draws.

    Returns:
        {method: {metric: `BOOTSTRAP_DRAWS` means}}, NaN where nothing that was drawn is defined,
        and what was drawn: `slides` or `tiles`.
    """
    units, unit = _units(results)
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(units), (BOOTSTRAP_DRAWS, len(units)))
    drawn: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for method in methods:
        rows = [tile.values.get(method, {}) for tile in results]
        names = dict.fromkeys(name for row in rows for name in row)
        drawn[method] = {
            name: _drawn([row.get(name, UNDEFINED) for row in rows], units, draws) for name in names
        }
    return drawn, unit


def _units(results: Sequence[TileResult]) -> tuple[list[list[int]], str]:
    """Gives the indices of tiles that are drawn together, and what they are."""
    groups = sorted({tile.location.group for tile in results})
    if len(groups) < LEAST_GROUPS:
        return [[i] for i in range(len(results))], "tiles"
    members = [
        [i for i, tile in enumerate(results) if tile.location.group == group] for group in groups
    ]
    return members, "slides"


def _drawn(
    tiles: Sequence[Measurement], units: Sequence[Sequence[int]], draws: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Gives the weighted mean of each draw of units."""
    values = np.array([tile.value for tile in tiles])
    weights = np.array([tile.weight for tile in tiles]) * np.isfinite(values)
    products = np.where(np.isfinite(values), values, 0.0) * weights
    sums = np.array([[products[unit].sum(), weights[unit].sum()] for unit in map(list, units)])
    total = sums[draws].sum(axis=1)
    known = total[:, 1] > 0
    means = np.full(len(draws), math.nan)
    means[known] = total[known, 0] / total[known, 1]
    return means
