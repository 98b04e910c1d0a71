"""What a run will be and how long it will take, before it starts.

`foresee` works from the slide and the job alone; `calibrate` runs a few windows of the slide, from
reading to the coded file, and makes an estimate of the time of it.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisr.engine import (
    ENCODING_THREADS,
    Foresight,
    Job,
    Result,
    Run,
    find_tissue_windows,
    foresee_run,
    prepare,
    stream_bytes,
    upscale,
)
from wsisr.plan import Axis, Rect
from wsisr.progress import cost_of_windows
from wsisr.scaleout.devices import usable_cores
from wsisr.scaleout.run import opener

CALIBRATION_S = 10.0
"""How long the windows of a calibration may take, beside the first."""
MOST_WINDOWS = 6
"""Side of the largest block of windows that a calibration computes."""
GLASS_STREAM = 0.5
"""What reading, blending and coding glass takes of the time that they take for tissue."""


@dataclass(frozen=True)
class Pace:
    """How fast this machine is at a job.

    Attributes:
        start: seconds until the first window.
        tissue: seconds that each window with tissue takes, all stages and devices at work.
        glass: the same for a window of glass.
        size: bytes that were written for each byte that was foreseen.
        peak_rss_mb: largest resident set of the process, in MB.
    """

    start: float
    tissue: float
    glass: float
    size: float
    peak_rss_mb: float

    def seconds(self, tissue: int, glass: int) -> float:
        """Estimates the duration of a run of so many windows."""
        return self.start + self.tissue * tissue + self.glass * glass


def foresee(job: Job) -> Foresight:
    """Says what a job will be, without writing anything or touching a device.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    return foresee_run(prepare(job))


def cost_of(foresight: Foresight) -> float:
    """Gives a number to order the slides of a cohort by, those that take longest last.

    Windows with tissue count, with the pixels and the steps that are computed in each, and glass
    a little.
    """
    glass = foresight.windows - foresight.tissue_windows
    pixels = foresight.width * foresight.height / foresight.windows
    return cost_of_windows(foresight.tissue_windows, glass) * pixels * (foresight.steps or 1)


def estimate(job: Job | Run) -> Foresight:
    """Says what a run will be, with its duration from a calibration on this machine.

    Args:
        job: what is asked for, or a run of `prepare`.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    run = job if isinstance(job, Run) else prepare(job)
    foreseen = foresee_run(run)
    pace = calibrate(run)
    seconds = pace.seconds(foreseen.tissue_windows, foreseen.windows - foreseen.tissue_windows)
    return replace(
        foreseen,
        seconds=round(seconds, 1),
        output_bytes=round(foreseen.output_bytes * pace.size),
        disk_bytes=round(foreseen.disk_bytes + foreseen.output_bytes * (pace.size - 1)),
        memory_bytes=max(foreseen.memory_bytes, round(pace.peak_rss_mb * 1e6) + stream_bytes(run)),
    )


def calibrate(run: Run) -> Pace:
    """Runs a few windows of a slide on the devices of its job, and measures.

    The first run is of one window and warms up; the second is of as many windows as fit into
    `CALIBRATION_S`, around the middle of the tissue. Their output lies in the system's temporary
    folder as long as they run.

    Args:
        run: a job worked out.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    tissue = find_tissue_windows(run.plan, run.tissue)
    first = _measure(run, tissue, 1)
    side = math.isqrt(int(CALIBRATION_S / max(first.tissue, 1e-9)))
    side = min(side, MOST_WINDOWS, *tissue.shape)
    return _measure(run, tissue, side) if side > 1 else first


def _measure(run: Run, tissue: NDArray[np.bool_], side: int) -> Pace:
    """Runs a block of `side` x `side` windows."""
    with tempfile.TemporaryDirectory(prefix="wsisr-calibration-") as folder:
        block = _block(run, tissue, side)
        part = _part(run, block, Path(folder))
        ends: list[float] = []
        started = time.monotonic()
        result = upscale(
            part.job,
            open_executor=opener(part.job),
            progress=lambda state: ends.append(time.monotonic() - started),
        )
        seconds = time.monotonic() - started
        # tiles that are filled up would count too much
        is_whole = block.width >= run.image.tile and block.height >= run.image.tile
        foreseen = foresee_run(part).output_bytes
        size = _written(Path(result.output)) / max(1, foreseen) if is_whole else 1.0
    return _pace(result, ends[0], seconds, size)


def _pace(result: Result, first: float, seconds: float, size: float) -> Pace:
    """Works out the pace of a run.

    Args:
        result: of the run.
        first: seconds until its first window was finished.
        seconds: its duration.
        size: bytes that it has written for each byte that was foreseen.
    """
    stages: Mapping[str, float] = result.seconds_by_stage
    windows, tissue = result.windows, max(1, result.tissue_windows)
    model = stages.get("model", 0.0) / tissue
    stream = [stages.get(name, 0.0) / windows for name in ("reading", "blending", "encoding")]
    # what is finished together with the first window is known by the model's time alone
    rest = (seconds - first) / (tissue - 1) if tissue > 1 else model + sum(stream)
    glass = GLASS_STREAM * max(*stream[:2], stream[2] / ENCODING_THREADS)
    return Pace(
        start=max(0.0, first - model),
        tissue=max(rest, model),
        glass=max(glass, GLASS_STREAM * sum(stream) / usable_cores()),
        size=size,
        peak_rss_mb=result.peak_rss_mb,
    )


def _block(run: Run, tissue: NDArray[np.bool_], side: int) -> Rect:
    """Gives the block of cells with the most windows of tissue, in output px."""
    rows, columns = tissue.shape
    sums = np.pad(tissue.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    best = np.argwhere(counts == counts.max())
    middle = np.array([rows - side, columns - side]) / 2
    row, column = best[np.abs(best - middle).sum(1).argmin()]
    plan = run.plan
    top, bottom = _inside(plan.rows, plan.window_rows[row], side)
    left, right = _inside(plan.columns, plan.window_columns[column], side)
    return Rect(left, top, _whole(right - left, run), _whole(bottom - top, run))


def _whole(side: int, run: Run) -> int:
    """Cuts a side down to whole tiles of the output, where it has any."""
    tile = run.image.tile
    return side // tile * tile or side


def _inside(axis: Axis, index: int, count: int) -> tuple[int, int]:
    """Gives the output px that depend on `count` windows alone: a cell's first px blend."""
    start, end = axis.cell(index)[0], axis.cell(index + count - 1)[1]
    return (start + axis.overlap if index and start + axis.overlap < end else start), end


def _part(run: Run, block: Rect, folder: Path) -> Run:
    """Gives the run that makes a block of a run's output, in another folder."""
    job, plan = run.job, run.plan
    downsample = run.resolution.downsample
    left, top = math.ceil(block.x / plan.scale), math.ceil(block.y / plan.scale)
    right = min(plan.view_width, math.floor(block.right / plan.scale))
    bottom = min(plan.view_height, math.floor(block.bottom / plan.scale))
    level0 = [
        round(side * downsample) for side in (left, top, max(1, right - left), max(1, bottom - top))
    ]
    part = replace(
        job,
        output=folder / job.output.name,
        region=Rect(*level0),
        tissue_out=None,
        force=True,
        overwrite=False,
        resume=None,
    )
    return replace(
        run,
        job=part,
        plan=replace(plan, region=block),
        image=replace(run.image, width=block.width, height=block.height),
        map=None,  # what is measured is the image
    )


def _written(output: Path) -> int:
    files = [output] if output.is_file() else output.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
