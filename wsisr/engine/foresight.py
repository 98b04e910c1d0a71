"""What a run will be, before it starts: how large, how many windows, what it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from wsisr.engine.preparation import Run
from wsisr.engine.size import estimate_size, journal_bytes
from wsisr.engine.stream import peak_rss_mb
from wsisr.engine.windows import find_tissue_windows
from wsisr.progress import as_duration, as_size

WINDOWS_IN_QUEUES = 8
"""Windows of a batch of one that wait between reading, model and blending."""
TILES_IN_HAND = 6


@dataclass(frozen=True)
class Foresight:
    """What a run will be; `wsisr upscale --dry-run --json` prints these fields.

    Attributes:
        width: columns of level 0.
        height: rows of level 0.
        mpp: um/px of level 0.
        magnification: nominal magnification of level 0.
        scale: output px for each input px.
        windows: windows in all.
        tissue_windows: those of them that the model is run on.
        tissue_share: part of the output's area that is tissue, 0 to 1.
        output_bytes: size of the outputs, estimated from a sample of the slide.
        disk_bytes: the most that the run takes on the disk, with what is beside the output until
            it is complete.
        memory_bytes: largest resident set of the process; what the networks' arithmetic needs is
            in it after a calibration alone.
        model: as the job names it.
        device: where the model runs, with the number of processes.
        precision: arithmetic of the networks; None where the model has none.
        steps: denoising steps; None where the model has none.
        seconds: duration of the run; None without a calibration.
        done_share: part of the tiles that an unfinished run has written, 0 to 1.
    """

    width: int
    height: int
    mpp: float
    magnification: float
    scale: float
    windows: int
    tissue_windows: int
    tissue_share: float
    output_bytes: int
    disk_bytes: int
    memory_bytes: int
    model: str
    device: str
    precision: str | None
    steps: int | None
    seconds: float | None = None
    done_share: float = 0.0

    def __str__(self) -> str:
        share = f"{100 * self.tissue_share:.0f} % tissue"
        windows = f"{self.tissue_windows} of {self.windows} windows"
        kind = [f"model {self.model}", self.device]
        kind += [self.precision] if self.precision else []
        kind += [f"{self.steps} steps"] if self.steps else []
        line = (
            f"{self.width}x{self.height} px, {self.magnification:g}x, {share} ({windows}), "
            f"{', '.join(kind)}, about {as_size(self.output_bytes)} on disk, "
            f"{as_size(self.memory_bytes)} of memory"
        )
        if self.done_share:
            line += f"; it goes on from an unfinished run, at {100 * self.done_share:.0f} %"
        return line if self.seconds is None else f"{line}, about {as_duration(self.seconds)}"


Announce = Callable[[Foresight], None]
"""Called once, when a run is about to compute its first window."""


def foresee_run(run: Run) -> Foresight:
    """Says what a run will be, without writing anything or touching a device.

    Args:
        run: a job worked out.

    Raises:
        SlideError: the slide cannot be opened.
        UsageError: the output's suffix is unknown.
    """
    plan, image = run.plan, run.image
    found = find_tissue_windows(plan, run.tissue)
    size = estimate_size(run, found)
    settings = image.provenance.get("settings", {})
    return Foresight(
        width=image.width,
        height=image.height,
        mpp=image.mpp,
        magnification=image.magnification,
        scale=run.resolution.scale,
        windows=found.size,
        tissue_windows=int(found.sum()),
        tissue_share=round(_tissue_share(run), 4),
        output_bytes=size,
        disk_bytes=size + journal_bytes(image),
        memory_bytes=round(peak_rss_mb() * 1e6) + stream_bytes(run),
        model=run.job.model,
        device=_devices(run),
        precision=settings.get("precision"),
        steps=settings.get("steps"),
    )


def stream_bytes(run: Run) -> int:
    """Counts the memory of what is between reading and the file; it grows with the width."""
    plan, image = run.plan, run.image
    cutter = image.width * (image.tile + plan.window) * image.samples
    strips = image.width * plan.overlap * 3 * 4
    pieces = 3 * image.tile * image.width // 2
    queues = WINDOWS_IN_QUEUES * (run.job.batch or 1) * plan.window**2 * 12
    tiles = TILES_IN_HAND * image.tile**2 * image.samples
    return cutter + strips + pieces + queues + tiles


def _tissue_share(run: Run) -> float:
    if run.tissue is None:
        return 1.0
    region, scale = run.plan.region, run.plan.scale
    sides = (round(side / scale) for side in (region.x, region.y, region.width, region.height))
    return run.tissue.share(*sides)


def _devices(run: Run) -> str:
    job, device = run.job, str(run.model.device)
    if job.gpus is not None:
        device = f"GPUs {job.gpus}"
    return device if job.workers in (None, 1) else f"{device}, {job.workers} processes"
