"""The way of a pixel: open, plan, read, restore, sample, blend, encode, write.

`upscale` is the whole run in one process. Reading, the model, and blending with encoding work in
threads of their own, joined by bounded queues, so memory does not grow with the slide's height.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from wsisr.engine.executor import OpenExecutor, open_executor
from wsisr.engine.foresight import Announce, foresee_run
from wsisr.engine.inputs import check_outputs
from wsisr.engine.job import Job, Result
from wsisr.engine.meter import Meter
from wsisr.engine.output import MapOutput, Output, open_outputs
from wsisr.engine.preparation import DamagedTiles, Run, is_lossless, open_view, prepare
from wsisr.engine.readback import digest_of
from wsisr.engine.resume import Missing, find_missing, fingerprint
from wsisr.engine.size import check_room
from wsisr.engine.stream import Prefetch, Stopwatch, peak_rss_mb
from wsisr.engine.uncertainty import companion_path
from wsisr.engine.windows import WindowReader, find_damage, read_windows
from wsisr.progress import Progress
from wsisr.pyramid import adopt_part
from wsisr.slides import View
from wsisr.urls import shown

QUEUED_BATCHES = 2


def upscale(
    job: Job | Run,
    progress: Progress | None = None,
    *,
    open_executor: OpenExecutor = open_executor,
    parts: Sequence[Path] = (),
    announce: Announce | None = None,
) -> Result:
    """Upscales a slide into a pyramid.

    The output appears under its name when it is complete. After an interruption, a full disk or a
    damaged input, `<output>.partial` and its journal wait for the same job to be run again; where
    nothing was stored, nothing is left.

    Args:
        job: what is asked for, or a run of `prepare`.
        progress: called after each window.
        open_executor: starts what computes the windows; by default this process does.
        parts: what `compute_band` wrote; their tiles are copied, and computed here where one is
            missing or torn.
        announce: called with what the run will be, before the first window.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    clock = Stopwatch()
    check_outputs(job.job if isinstance(job, Run) else job)
    run = job if isinstance(job, Run) else prepare(job)
    check_room(run)
    if run.job.destination is not None and run.job.overwrite:
        run.model.load()  # what is behind the URL goes at once: not for a model that is broken
    damaged = None if run.damaged is None else set(run.damaged)
    with ExitStack() as stack:
        view = stack.enter_context(open_view(run.job, damaged))
        check_mask_output(run)
        outputs = open_outputs(run, stack, clock)
        adopt_parts(run, outputs, parts)
        write_mask(run)
        missing = find_missing([each.writer for each in outputs], run.plan, smallest_block(run))
        if announce is not None:
            announce(replace(foresee_run(run), done_share=round(float(missing.done.mean()), 4)))
        stream = Stream(run, outputs, missing, clock)
        computed = stream.compute(view, open_executor, progress)
        if damaged is not None:
            find_damage(run.plan, WindowReader(run.plan, view, run.tissue), missing)
        finish(outputs, damaged, clock)
    return sum_up(stream, computed, damaged)


@dataclass(frozen=True)
class StreamCounts:
    """What was computed of a run.

    Attributes:
        windows: windows that were gone through.
        tissue_windows: those of them that the model was run on.
        device_busy_share: share of the time that the devices computed, on average.
    """

    windows: int
    tissue_windows: int
    device_busy_share: float


@dataclass(frozen=True)
class Stream:
    """The way from the slide to the outputs of a run, which are lacking some of their tiles.

    Attributes:
        run: the run.
        outputs: take the windows.
        missing: what they lack.
        clock: counts the time.
    """

    run: Run
    outputs: Sequence[Output]
    missing: Missing
    clock: Stopwatch

    def compute(
        self, view: View, open_executor: OpenExecutor, progress: Progress | None
    ) -> StreamCounts:
        """Reads, computes, blends and writes what the outputs lack.

        Args:
            view: the resolution that is upscaled.
            open_executor: starts what computes the windows; not called with nothing missing.
            progress: called after each window.
        """
        run, missing, clock = self.run, self.missing, self.clock
        if missing.done.all():
            return StreamCounts(0, 0, 0.0)
        plan = missing.remaining(run.plan)
        with ExitStack() as stack:
            executor = stack.enter_context(open_executor(run, plan, clock))
            for output in self.outputs:
                output.begin(plan, missing.rows_done, executor.device)
            meter = Meter(plan, run.tissue, missing, executor, progress)
            reader = WindowReader(plan, view, run.tissue)
            depth = QUEUED_BATCHES * executor.batch
            windows = Prefetch(read_windows(plan, reader, missing, clock), depth, "read")
            images = Prefetch(executor.map(stack.enter_context(windows)), depth, "model")
            stack.enter_context(images)
            stack.callback(executor.stop)
            for window, computed in images:
                for output in self.outputs:
                    output.take(window, computed)
                meter.add(window, self.outputs[0].pixels_done)
            return StreamCounts(len(plan), meter.tissue_done, meter.busy_share)


def adopt_parts(run: Run, outputs: Sequence[Output], parts: Sequence[Path]) -> None:
    """Copies the tiles of parts into the output of a run.

    Raises:
        UsageError: a part belongs to another run.
    """
    for part in parts:
        adopt_part(
            outputs[0].writer,
            part,
            fingerprint(run.image),
            blanks_damage=run.damaged is not None,
        )


def smallest_block(run: Run) -> int:
    """Gives the side in px of the blocks that exact consistency makes in one piece, else 1."""
    return round(run.plan.scale) if run.job.exact else 1


def check_mask_output(run: Run) -> None:
    """Makes sure that the tissue mask can be written where the job asks for it.

    Raises:
        UsageError: another file is there.
    """
    if run.tissue is not None and run.job.tissue_out is not None:
        run.tissue.lacks_file(run.job.tissue_out, overwrite=run.job.overwrite)


def write_mask(run: Run) -> None:
    """Writes the tissue mask for QuPath where the job asks for it.

    Raises:
        OutputError: it cannot be written.
    """
    if run.tissue is not None and run.job.tissue_out is not None:
        run.tissue.to_geojson(run.job.tissue_out, overwrite=run.job.overwrite)


def finish(outputs: Sequence[Output], damaged: DamagedTiles | None, clock: Stopwatch) -> None:
    """Completes the outputs, each with the damaged tiles of the input in its provenance.

    The image comes last: where it is, all that belongs to it is.
    """
    with clock("finishing"):
        for output in reversed(outputs):
            output.finish({"damaged_source_tiles": sorted(damaged or ())})
    clock.seconds["encoding"] = sum(output.writer.busy_seconds for output in outputs)


def sum_up(stream: Stream, computed: StreamCounts, damaged: DamagedTiles | None) -> Result:
    """Says what came of a run."""
    run, outputs, missing, clock = stream.run, stream.outputs, stream.missing, stream.clock
    job, image = run.job, run.image
    digest = None if missing.tiles_done else outputs[0].sha256()
    if digest is None and is_lossless(job) and job.destination is None:
        with clock("reading back"):
            digest = digest_of(job.output)
    settings = image.provenance.get("settings", {})
    maps = [output for output in outputs if isinstance(output, MapOutput)]
    return Result(
        output=str(job.output) if job.destination is None else shown(job.destination),
        width=image.width,
        height=image.height,
        mpp=image.mpp,
        magnification=image.magnification,
        levels=len(image.levels),
        windows=computed.windows,
        tissue_windows=computed.tissue_windows,
        model=job.model,
        steps=settings.get("steps"),
        seed=settings.get("seed"),
        seconds=round(time.monotonic() - clock.started, 3),
        seconds_by_stage={k: round(v, 3) for k, v in sorted(clock.seconds.items())},
        peak_rss_mb=peak_rss_mb(),
        sha256_pixels=digest,
        resumed_rows=missing.rows_done,
        resumed_tiles=missing.tiles_done,
        damaged_source_tiles=len(damaged or ()),
        device_busy_share=round(computed.device_busy_share, 4),
        uncertainty={
            "output": str(companion_path(job.output)),
            "samples": job.uncertainty,
            **maps[0].summary.figures(),
        }
        if maps
        else None,
    )
