"""The way of a pixel: open, plan, read, restore, sample, blend, encode, write.

`upscale` is the whole run in one process. Reading, the model, and blending with encoding work in
threads of their own, joined by bounded queues, so memory does not grow with the slide's height.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from wsisr.engine.executor import Executor, OpenExecutor, open_executor
from wsisr.engine.job import Job, Progress, Result
from wsisr.engine.output import MapOutput, Output, open_outputs
from wsisr.engine.preparation import DamagedTiles, Run, open_view, prepare
from wsisr.engine.resume import Missing, find_missing
from wsisr.engine.stream import Prefetch, Stopwatch, peak_rss_mb
from wsisr.engine.uncertainty import companion_path
from wsisr.engine.windows import WindowReader, find_damage, read_windows

QUEUED_BATCHES = 2


def upscale(
    job: Job, progress: Progress | None = None, *, open_executor: OpenExecutor = open_executor
) -> Result:
    """Upscales a slide into a pyramid.

    The output appears under its name when it is complete. After an interruption, a full disk or a
    damaged input, `<output>.partial` and its journal wait for the same job to be run again; after
    a mistake in the options or the model nothing is left.

    Args:
        job: what is asked for.
        progress: called after each window.
        open_executor: starts what computes the windows; by default this process does.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    clock = Stopwatch()
    run = prepare(job)
    damaged = None if run.damaged is None else set(run.damaged)
    with ExitStack() as stack:
        view = stack.enter_context(open_view(job, damaged))
        outputs = open_outputs(run, stack, clock)
        write_mask(run)
        missing = find_missing([each.writer for each in outputs], run.plan, smallest_block(run))
        plan = missing.remaining(run.plan)
        executor = stack.enter_context(open_executor(run, plan, clock))
        began = time.monotonic()
        for output in outputs:
            output.begin(plan, missing.rows_done, executor.device)
        reader = WindowReader(plan, view, run.tissue)
        depth = QUEUED_BATCHES * executor.batch
        windows = Prefetch(read_windows(plan, reader, missing, clock), depth, "read")
        images = Prefetch(executor.map(stack.enter_context(windows)), depth, "model")
        stack.enter_context(images)
        stack.callback(executor.stop)
        tissue_windows = 0
        for done, (window, computed) in enumerate(images, 1):
            for output in outputs:
                output.take(window, computed)
            tissue_windows += window.tissue is not None
            if progress is not None:
                progress(done, len(plan))
        if damaged is not None:
            find_damage(run.plan, reader, missing)
        busy_share = share_of_time(executor, time.monotonic() - began)
        finish(outputs, damaged, clock)
    return sum_up(run, outputs, missing, len(plan), tissue_windows, damaged, clock, busy_share)


def share_of_time(executor: Executor, seconds: float) -> float:
    """Gives the share of a time that an executor's devices computed, on average."""
    return round(executor.busy_seconds / (executor.devices * seconds), 4)


def smallest_block(run: Run) -> int:
    """Gives the side in px of the blocks that exact consistency makes in one piece, else 1."""
    return round(run.plan.scale) if run.job.exact else 1


def write_mask(run: Run) -> None:
    """Writes the tissue mask for QuPath where the job asks for it.

    Raises:
        OutputError: it cannot be written.
    """
    if run.tissue is not None and run.job.tissue_out is not None:
        run.tissue.to_geojson(run.job.tissue_out)


def finish(outputs: Sequence[Output], damaged: DamagedTiles | None, clock: Stopwatch) -> None:
    """Completes the outputs, each with the damaged tiles of the input in its provenance.

    The image comes last: where it is, all that belongs to it is.
    """
    with clock("finishing"):
        for output in reversed(outputs):
            output.finish({"damaged_source_tiles": sorted(damaged or ())})
    clock.seconds["encoding"] = sum(output.writer.busy_seconds for output in outputs)


def sum_up(
    run: Run,
    outputs: Sequence[Output],
    missing: Missing,
    windows: int,
    tissue_windows: int,
    damaged: DamagedTiles | None,
    clock: Stopwatch,
    busy_share: float,
) -> Result:
    """Says what came of a run."""
    job, image = run.job, run.image
    settings = image.provenance.get("settings", {})
    maps = [output for output in outputs if isinstance(output, MapOutput)]
    return Result(
        output=str(job.output),
        width=image.width,
        height=image.height,
        mpp=image.mpp,
        magnification=image.magnification,
        levels=len(image.levels),
        windows=windows,
        tissue_windows=tissue_windows,
        model=job.model,
        steps=settings.get("steps"),
        seed=settings.get("seed"),
        seconds=round(time.monotonic() - clock.started, 3),
        seconds_by_stage={k: round(v, 3) for k, v in sorted(clock.seconds.items())},
        peak_rss_mb=peak_rss_mb(),
        sha256_pixels=None if missing.tiles_done else outputs[0].sha256(),
        resumed_rows=missing.rows_done,
        resumed_tiles=missing.tiles_done,
        damaged_source_tiles=len(damaged or ()),
        device_busy_share=busy_share,
        uncertainty={
            "output": str(companion_path(job.output)),
            "samples": job.uncertainty,
            **maps[0].summary.figures(),
        }
        if maps
        else None,
    )
