"""Measures what a plan holds, tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.command import one_line
from bench.quality.methods import Method, Upscale, load_method
from bench.quality.plan import Plan
from bench.quality.tiles import DataSet, read_cropped, slide_of
from wsisr.errors import UsageError, WsisrError
from wsisr.evaluation.measures import Image, Measurement, Metric, Sample, Scan, measure_tile
from wsisr.evaluation.nuclei import ClassicalSegmenter, Segmenter
from wsisr.evaluation.pairing import Location
from wsisr.evaluation.report import TileResult
from wsisr.resize import area_downsample


@dataclass(frozen=True)
class Setup:
    """What a plan is measured with.

    Attributes:
        device: where models run, for instance `cuda:0`.
        precision: of models; None for what `wsisr upscale` takes on this machine.
        segmenter: finds the nuclei.
        show_progress: whether progress is shown on stderr.
    """

    device: str = "cpu"
    precision: str | None = None
    segmenter: Segmenter = field(default_factory=ClassicalSegmenter)
    show_progress: bool = True


@dataclass(frozen=True)
class Measured:
    """What one method scored on the tiles of one data set at one scale.

    Attributes:
        data: label of the data set.
        scale: the scale.
        method: the method.
        tiles: figures of each tile; empty where nothing ran.
        not_run: {measure: why it has no value}; {"": why} where nothing ran.
    """

    data: str
    scale: int
    method: Method
    tiles: Sequence[TileResult]
    not_run: Mapping[str, str]


def measure_plan(plan: Plan, setup: Setup) -> list[Measured]:
    """Measures every method on every data set at every scale; one model is in memory at a time.

    Raises:
        UsageError: the device cannot be used.
    """
    if setup.device != "cpu":
        # only then: torch takes seconds to import, and pixel baselines do without
        from wsisr.models import pick_device

        pick_device(setup.device)
    return [
        measured
        for method in plan.methods
        for scale in plan.scales
        for measured in _measure_method(plan, setup, method, scale)
    ]


def _measure_method(plan: Plan, setup: Setup, method: Method, scale: int) -> list[Measured]:
    """Measures a method on all data sets; what fails says why and leaves the others standing."""
    try:
        upscale = load_method(method, setup.device, setup.precision, scale)
    except WsisrError as error:
        broken = {**plan.not_run, "": one_line(error)}
        return [Measured(data.label, scale, method, [], broken) for data in plan.data]
    measured = []
    for data in plan.data:
        title = f"{data.label} {method.label} x{scale}"
        paths = tqdm(
            plan.tiles[data.label], desc=title, unit="tile", disable=not setup.show_progress
        )
        judge = Judge(data, scale, method.label, plan.metrics, setup.segmenter)
        try:
            tiles = judge.measure(paths, upscale)
            not_run = {**plan.not_run, **judge.refused}
        except WsisrError as error:
            tiles, not_run = [], {**plan.not_run, "": one_line(error)}
        measured.append(Measured(data.label, scale, method, tiles, not_run))
    return measured


@dataclass
class Judge:
    """Measures what a method makes of the tiles of one data set.

    Attributes:
        data: the data set.
        scale: the scale.
        label: the method's name.
        metrics: the measures.
        segmenter: finds the nuclei.
        refused: {measure: why}: those that a tile did not suit; they are not tried on others.
    """

    data: DataSet
    scale: int
    label: str
    metrics: Sequence[Metric]
    segmenter: Segmenter
    refused: dict[str, str] = field(default_factory=dict)

    def measure(self, paths: Iterable[Path], upscale: Upscale) -> list[TileResult]:
        """Averages each tile by the scale, upscales it again and returns its figures.

        Raises:
            WsisrError: a tile cannot be read or upscaled.
        """
        return [self._measure_tile(path, upscale) for path in paths]

    def _measure_tile(self, path: Path, upscale: Upscale) -> TileResult:
        hr = read_cropped(path, self.scale)
        height, width = hr.shape[:2]
        lr = area_downsample(hr, self.scale)
        sr = upscale(lr, self.scale, self.data, path)
        if sr.shape != hr.shape:
            sr = np.ascontiguousarray(sr[:height, :width])
        slide, name = slide_of(self.data.folder, path), path.relative_to(self.data.folder)
        location = Location(name.as_posix(), slide, 0, 0, width, height)
        return TileResult(location, {self.label: self._figures(sr, hr, lr)})

    def _figures(self, sr: Image, hr: Image, lr: Image) -> dict[str, Measurement]:
        sample = Sample(sr, Scan(hr, self.data.mpp, self.segmenter), lr)
        figures: dict[str, Measurement] = {}
        for metric in self.metrics:
            if metric.name not in self.refused:
                try:
                    figures |= measure_tile(sample, [metric])
                except UsageError as error:
                    self.refused[metric.name] = one_line(error)
        return figures
