"""Uncertainty: several samples of every window, their spread as a pyramid beside the output.

What is written is the standard deviation over K noise seeds, seed to seed + K - 1, of the finished
windows (root mean square over the channels), in grey levels times `COUNTS_PER_LEVEL`. In overlaps
the maps are blended as the images are, which there is an upper bound of the blend's own deviation.
It shows where the model's inventions differ; that they agree does not make them true.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsisr.engine.blend import Cell
from wsisr.engine.executor import Predict
from wsisr.errors import UsageError
from wsisr.models import WindowInput
from wsisr.pyramid import PyramidSpec

COUNTS_PER_LEVEL = 4
"""A count of the map is a quarter of a grey level; 255 stands for 63.75 and more."""
CHANNEL = f"standard deviation, grey levels x {COUNTS_PER_LEVEL}"
LOOKUP = ((0, "000004"), (16, "3b0f70"), (48, "b73779"), (96, "fc8961"), (255, "fcfdbf"))
"""(count, sRGB) of a colour map, linear between; a viewer's own grey scale shows it as well."""
KEEP = ("first", "mean")


class Stochastic(Protocol):
    """A model whose images depend on a seed."""

    def samples(self, windows: Sequence[WindowInput], seeds: Iterable[int]) -> Iterator[Tensor]:
        """(B, 3, tile, tile) float32 for each seed."""
        ...


def check_uncertainty(count: int, keep: str, model: object, name: str) -> None:
    """Raise UsageError where `count` samples of `model` cannot be compared."""
    if count < 2:
        raise UsageError(f"--uncertainty {count}: a deviation needs at least 2 samples")
    if keep not in KEEP:
        raise UsageError(f"--output-sample {keep}: must be one of {', '.join(KEEP)}")
    if not getattr(model, "stochastic", False):
        raise UsageError(
            f"--uncertainty: --model {name} as set makes the same image from every seed; choose a "
            "model with a second stage, and a --fidelity below 1"
        )


def sample_statistics(model: Stochastic, seed: int, count: int, keep: str) -> Predict:
    """The images of the first seed (or the mean of all) with the deviation over `count` seeds.

    Welford's recurrence: whatever `count` is, three images a window are held.
    """
    seeds = [(seed + k) % 2**64 for k in range(count)]

    @torch.inference_mode()
    def predict(windows: Sequence[WindowInput]) -> tuple[Tensor, Tensor | None]:
        first = mean = squares = torch.zeros(())
        for number, image in enumerate(model.samples(windows, seeds), 1):
            image = image.clamp(0, 1)
            first = image if number == 1 else first
            change = image - mean
            mean = mean + change / number
            squares = squares + change * (image - mean)
        deviation = (squares / (count - 1)).mean(1, keepdim=True).sqrt()
        return (mean if keep == "mean" else first), deviation

    return predict


def companion_path(output: Path) -> Path:
    """Where the map of `output` goes: slide.ome.tif -> slide.uncertainty.ome.tif."""
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if output.name.lower().endswith(suffix):
            return output.with_name(output.name[: -len(suffix)] + ".uncertainty.ome.tif")
    return output.with_name(output.name + ".uncertainty.ome.tif")


def describe_map(spec: PyramidSpec, provenance: dict[str, Any]) -> PyramidSpec:
    """The map's pyramid: the grid, resolution and provenance of the image, one channel, lossless.

    `provenance` is extended by what the values mean, and by a colour map.
    """
    provenance["map"] = {
        "quantity": "standard deviation over noise seeds",
        "unit": "grey levels of 0..255",
        "counts_per_unit": COUNTS_PER_LEVEL,
        "lookup": [list(entry) for entry in LOOKUP],
    }
    return replace(
        spec,
        compression="deflate",
        layout="ome",
        channels=(CHANNEL,),
        background=(0,),
        associated={},
        icc_profile=None,
        name=f"{spec.name} uncertainty",
        provenance=provenance,
    )


def as_counts(deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w, 1) grey levels -> (h, w, 3) in the map's counts, as the blender takes it."""
    counts = np.minimum(deviation * COUNTS_PER_LEVEL, 255)
    return np.repeat(counts, 3, axis=2)


class Summary:
    """Mean, 95th percentile and largest value of a map, from a histogram of its counts."""

    def __init__(self) -> None:
        self._histogram = np.zeros(256, np.int64)

    def add(self, cell: Cell) -> None:
        """Count the pixels of a finished cell."""
        self._histogram += np.bincount(cell.pixels[..., 0].ravel(), minlength=256)

    def figures(self) -> Mapping[str, float | None]:
        """In grey levels; None where nothing was counted."""
        total = int(self._histogram.sum())
        if not total:
            return {"mean": None, "p95": None, "max": None}
        counts = np.arange(256)
        mean = float((counts * self._histogram).sum() / total)
        p95 = int(np.searchsorted(np.cumsum(self._histogram), 0.95 * total))
        largest = int(np.flatnonzero(self._histogram)[-1])
        values = (("mean", mean), ("p95", p95), ("max", largest))
        return {name: round(value / COUNTS_PER_LEVEL, 4) for name, value in values}
