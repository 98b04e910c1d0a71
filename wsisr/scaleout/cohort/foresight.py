"""What a cohort will be, before it starts: each slide, the disk that all take, and the time."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wsisr.engine import Foresight, foresee_run, prepare
from wsisr.errors import WsisrError
from wsisr.scaleout.cohort.batch import choose_places
from wsisr.scaleout.cohort.ledger import Ledger
from wsisr.scaleout.cohort.manifest import read_rows
from wsisr.scaleout.cohort.planning import Wanted, split_finished, want
from wsisr.scaleout.cohort.shard import choose_shard, take_shard
from wsisr.scaleout.devices import usable_cores
from wsisr.scaleout.foresight import Pace, calibrate
from wsisr.urls import is_url

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForeseenSlide:
    """What a slide of a cohort will be.

    Attributes:
        id: its name in the cohort.
        slide: path or URL.
        output: where its result will lie.
        foresight: what its run will be; None where there will be none, or nothing can be told.
        reason: why there is none: it is finished, cannot be read, or lies behind a URL.
    """

    id: str
    slide: str
    output: Path
    foresight: Foresight | None
    reason: str = ""


@dataclass(frozen=True)
class CohortForesight:
    """What a cohort will be; `wsisr batch --dry-run --json` prints these fields.

    Attributes:
        slides: every slide, in the order they were given.
        places: how many slides are computed at once.
        output_bytes: size of all outputs that are to be made.
        free_bytes: what the disk of the results has free; None where that cannot be told.
        seconds: duration, from a calibration on the slide that takes longest; None without one.
    """

    slides: Sequence[ForeseenSlide]
    places: int
    output_bytes: int
    free_bytes: int | None
    seconds: float | None

    @property
    def fits(self) -> bool:
        """Tells whether the disk has room for all outputs, as far as is known."""
        return self.free_bytes is None or self.output_bytes <= self.free_bytes


def foresee_batch(
    inputs: Sequence[str | Path],
    out: Path,
    options: Mapping[str, Any],
    *,
    suffix: str = ".ome.tif",
    gpus: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    shard: str | None = None,
    overwrite: bool = False,
) -> CohortForesight:
    """Says what `run_batch` will do, without writing anything but a calibration's temporary files.

    Args:
        inputs: see `run_batch`, as all others.
        out: folder of the results; it need not exist.
        options: keywords of `wsisr.upscale` for all slides.
        suffix: of results that a manifest does not name.
        gpus: numbers of the GPUs.
        workers: how many slides are computed at once.
        device: torch device.
        shard: share of the slides.
        overwrite: whether results of other settings are replaced.

    Raises:
        WsisrError: what is wrong with which input or option.
    """
    rows = read_rows(inputs, out, suffix, anonymous=bool(options.get("anonymous")))
    rows = take_shard(rows, None, choose_shard(shard, os.environ))
    places = choose_places(gpus, workers, device)
    left, skipped = split_finished(want(rows, Ledger(out), options), overwrite=overwrite)
    found = {row.id: ForeseenSlide(row.id, row.slide, row.output, None, "done") for row in skipped}
    with ThreadPoolExecutor(usable_cores()) as pool:
        found |= {slide.id: slide for slide in pool.map(_foresee, left)}
    slides = [found[row.id] for row in rows]
    pace = _pace_of_longest(left, found, places[0])
    return CohortForesight(
        slides,
        len(places),
        sum(slide.foresight.output_bytes for slide in slides if slide.foresight),
        _free_bytes(out),
        None if pace is None else round(_seconds(slides, pace, places), 1),
    )


def _foresee(wanted: Wanted) -> ForeseenSlide:
    row = wanted.row
    blank = ForeseenSlide(row.id, row.slide, row.output, None)
    if is_url(row.slide):
        return replace(blank, reason="lies behind a URL and is not opened")
    try:
        return replace(blank, foresight=foresee_run(prepare(wanted.job)))
    except WsisrError as error:
        return replace(blank, reason=" ".join(str(error).split()))


def _pace_of_longest(
    left: Sequence[Wanted], found: Mapping[str, ForeseenSlide], device: torch.device
) -> Pace | None:
    """Calibrates on the slide with most windows of tissue; None where no slide can be read."""

    def windows(wanted: Wanted) -> int:
        foresight = found[wanted.row.id].foresight
        return foresight.tissue_windows if foresight else -1

    longest = max(left, key=windows, default=None)
    if longest is None or windows(longest) < 0:
        return None
    job = replace(longest.job, device=str(device), gpus=None, workers=None)
    return calibrate(prepare(job))


def _seconds(slides: Sequence[ForeseenSlide], pace: Pace, places: Sequence[torch.device]) -> float:
    """Estimates the duration: the model is loaded once a place, and places share the last slides.

    The calibration had all cores, which places on the CPU divide among them.
    """
    together = 1 if places[0].type == "cpu" else len(places)
    plans = [slide.foresight for slide in slides if slide.foresight]
    tissue = sum(plan.tissue_windows for plan in plans)
    glass = sum(plan.windows for plan in plans) - tissue
    return pace.start + (pace.seconds(tissue, glass) - pace.start) / together


def _free_bytes(folder: Path) -> int | None:
    """Gives what the disk has free on which a folder lies, or will lie."""
    for place in (folder, *folder.absolute().parents):
        if place.is_dir():
            return shutil.disk_usage(place).free
    return None
