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
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.job import Job
from wsisr.errors import OptionError
from wsisr.pyramid import PyramidSpec

if TYPE_CHECKING:
    from torch import Tensor

    from wsisr.engine.blend import Cell
    from wsisr.engine.runner import WindowModel
    from wsisr.models import Upscaler, WindowInput

MOST_SAMPLES = 1000
COUNTS_PER_LEVEL = 4
"""A count of the map is a quarter of a grey level; 255 stands for 63.75 and more."""
CHANNEL = f"standard deviation, grey levels x {COUNTS_PER_LEVEL}"
LOOKUP = ((0, "000004"), (16, "3b0f70"), (48, "b73779"), (96, "fc8961"), (255, "fcfdbf"))
"""(count, sRGB) of a colour map, linear between; a viewer's own grey scale shows it as well."""
OUTPUT_SAMPLES = ("first", "mean")


class Stochastic(Protocol):
    """A model whose images depend on a seed."""

    def samples(self, windows: Sequence[WindowInput], seeds: Iterable[int]) -> Iterator[Tensor]:
        """Yields (B, 3, window, window) float32 for each seed."""
        ...


def check_uncertainty(job: Job, stochastic: bool) -> None:
    """Checks that the samples of a job can be compared.

    Args:
        job: asks for `uncertainty` samples, or for none.
        stochastic: whether the model makes another image from another seed.

    Raises:
        OptionError: one sample is too few, or every seed makes the same image.
    """
    if job.uncertainty is None:
        return
    if job.destination is not None:
        rule = "the map is written beside OUT as a file; give OUT as a path"
        raise OptionError("uncertainty", job.uncertainty, rule)
    if not 2 <= job.uncertainty <= MOST_SAMPLES:
        rule = f"a deviation needs at least 2 samples, and gains little by more than {MOST_SAMPLES}"
        raise OptionError("uncertainty", job.uncertainty, rule)
    if job.output_sample not in OUTPUT_SAMPLES:
        rule = f"must be one of {', '.join(OUTPUT_SAMPLES)}"
        raise OptionError("output_sample", job.output_sample, rule)
    if not stochastic:
        raise OptionError(
            "uncertainty",
            None,
            f"<model> {job.model} as set makes the same image from every seed; choose a model with "
            "a second stage, and a <fidelity> below 1",
        )


def sample_statistics(model: Upscaler, seed: int, count: int, output_sample: str) -> WindowModel:
    """Makes the deviation of several samples beside the image.

    Welford's recurrence: whatever `count` is, three images a window are held.

    Args:
        model: a stochastic model.
        seed: that of the first sample; each further one has the next.
        count: how many samples, 2 or more.
        output_sample: whether the image is the `first` sample or the `mean` of all.

    Returns:
        Images (B, 3, window, window) in [0, 1] and deviations (B, 1, window, window), the root
        mean square over the channels.
    """
    import torch

    stochastic = cast("Stochastic", model)
    seeds = [(seed + k) % 2**64 for k in range(count)]

    @torch.inference_mode()
    def predict(windows: Sequence[WindowInput]) -> tuple[Tensor, Tensor | None]:
        first = mean = squares = torch.zeros(())
        for number, image in enumerate(stochastic.samples(windows, seeds), 1):
            image = image.clamp(0, 1)
            first = image if number == 1 else first
            change = image - mean
            mean = mean + change / number
            squares = squares + change * (image - mean)
        deviation = (squares / (count - 1)).mean(1, keepdim=True).sqrt()
        return (mean if output_sample == "mean" else first), deviation

    return predict


def companion_path(output: Path) -> Path:
    """Says where the map of an output goes: slide.ome.tif -> slide.uncertainty.ome.tif."""
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if output.name.lower().endswith(suffix):
            return output.with_name(output.name[: -len(suffix)] + ".uncertainty.ome.tif")
    return output.with_name(output.name + ".uncertainty.ome.tif")


def describe_map(image: PyramidSpec) -> PyramidSpec:
    """Describes the map's pyramid: the grid and resolution of the image, one channel, lossless.

    Its provenance is that of the image, with what the values mean and a colour map.
    """
    meaning = {
        "quantity": "standard deviation over noise seeds",
        "unit": "grey levels of 0..255",
        "counts_per_unit": COUNTS_PER_LEVEL,
        "lookup": [list(entry) for entry in LOOKUP],
    }
    return replace(
        image,
        compression="deflate",
        layout="ome",
        channels=(CHANNEL,),
        background=(0,),
        associated={},
        icc_profile=None,
        name=f"{image.name} uncertainty",
        provenance={**image.provenance, "map": meaning},
    )


def as_counts(deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turns (h, w, 1) grey levels into (h, w, 3) counts of the map, as the blender takes them."""
    counts = np.minimum(deviation * COUNTS_PER_LEVEL, 255)
    return np.repeat(counts, 3, axis=2)


class Summary:
    """Mean, 95th percentile and largest value of a map, from a histogram of its counts."""

    def __init__(self) -> None:
        self._histogram = np.zeros(256, np.int64)

    def add(self, cell: Cell) -> None:
        """Counts the pixels of a finished cell."""
        self._histogram += np.bincount(cell.pixels[..., 0].ravel(), minlength=256)

    def figures(self) -> Mapping[str, Any]:
        """Gives the figures in grey levels; None where nothing was counted."""
        total = int(self._histogram.sum())
        if not total:
            return {"mean": None, "p95": None, "max": None}
        counts = np.arange(256)
        mean = float((counts * self._histogram).sum() / total)
        p95 = int(np.searchsorted(np.cumsum(self._histogram), 0.95 * total))
        largest = int(np.flatnonzero(self._histogram)[-1])
        values = (("mean", mean), ("p95", p95), ("max", largest))
        return {name: round(value / COUNTS_PER_LEVEL, 4) for name, value in values}
