"""The way of a pixel: open, plan, read, restore, sample, blend, encode, write.

`upscale` is the whole run in one process. Reading, the model, and blending with encoding work in
threads of their own, joined by bounded queues, so memory does not grow with the slide's height.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.blend import Cell
from wsisr.engine.exact import fit_cell
from wsisr.engine.executor import Computed, Runner, default_batch, run_model
from wsisr.engine.job import Job, Progress, Result
from wsisr.engine.output import Layer
from wsisr.engine.prepare import (
    choose_predict,
    describe_output,
    describe_run,
    find_resolution,
    find_tissue,
    plan_run,
    settings_of,
)
from wsisr.engine.resume import (
    discard_after_mistake,
    done_tiles,
    find_missing,
    fingerprint,
    remaining,
)
from wsisr.engine.stream import Prefetch, Stopwatch, peak_rss_mb
from wsisr.engine.uncertainty import (
    Summary,
    as_counts,
    companion_path,
    describe_map,
)
from wsisr.engine.windows import ReadWindow, find_damage, read_windows
from wsisr.models import load_upscaler, pick_device
from wsisr.plan import Plan
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer
from wsisr.slides import open_slide, select_view

ENCODING_THREADS = 2
QUEUED_BATCHES = 2


def upscale(job: Job, progress: Progress | None = None) -> Result:
    """Upscale a slide into a pyramid.

    The output appears under its name when it is complete. After an interruption, a full disk or a
    damaged input, `<output>.partial` and its journal wait for the same job to be run again; after
    a mistake in the options or the model nothing is left.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    began = time.monotonic()
    clock = Stopwatch()
    with ExitStack() as stack:
        unreadable: set[tuple[str, int, int]] | None = (
            set() if job.on_tile_error == "blank" else None
        )
        slide = stack.enter_context(open_slide(job.source, unreadable=unreadable))
        view = select_view(slide, input_mag=job.input_mag, input_mpp=job.input_mpp, level=job.level)
        resolution = find_resolution(job, view)
        plan = plan_run(job, view, resolution.scale)
        model = load_upscaler(
            job.model,
            device=pick_device(job.device),
            settings=settings_of(job),
            base=job.base,
            scale=plan.scale,
        )
        predict = choose_predict(job, model)
        tissue = find_tissue(job, view)
        provenance = describe_run(job, view, plan, resolution, model)
        spec = describe_output(job, view, plan, resolution, provenance)
        writer = stack.enter_context(
            open_writer(
                job.output,
                spec,
                threads=ENCODING_THREADS,
                overwrite=job.overwrite,
                resume=job.resume,
                fingerprint=fingerprint(spec),
            )
        )
        stack.push(partial(discard_after_mistake, writer))
        writers = [writer]
        if job.uncertainty is not None:
            spread = dict(provenance)
            writers.append(stack.enter_context(open_map(job, describe_map(spec, spread), writer)))
            stack.push(partial(discard_after_mistake, writers[1]))
        missing = find_missing(writers, plan, block=round(plan.scale) if job.exact else 1)
        rows_done, resumed_tiles = missing.rows_done, int(np.count_nonzero(missing.done))
        rest = remaining(plan, rows_done * spec.tile)
        batch = job.batch or default_batch(model.device)
        runner = stack.enter_context(Runner(predict, model.device, batch))
        reading = stack.enter_context(
            Prefetch(
                read_windows(rest, view, tissue, missing, clock), QUEUED_BATCHES * batch, "read"
            )
        )
        images = stack.enter_context(
            Prefetch(run_model(reading, runner, clock), QUEUED_BATCHES * batch, "model")
        )
        layers = [Layer(rest, each, rows_done) for each in writers]
        summary = Summary()
        tissue_tiles = write_windows(
            rest, images, layers, summary, clock, progress, exact=job.exact
        )
        if unreadable is not None:
            find_damage(plan, view, missing)
        # known only now; the metadata are written last
        provenance["unreadable_tiles"] = sorted(unreadable or ())
        with clock("finishing"):
            # the map first: where the output is, all that belongs to it is
            for each in reversed(writers):
                each.finish()
        clock.seconds["encoding"] = sum(each.busy_seconds for each in writers)
    settings = model.describe().get("settings", {})
    return Result(
        output=str(job.output),
        width=spec.width,
        height=spec.height,
        mpp=spec.mpp,
        magnification=spec.magnification,
        levels=len(spec.levels),
        tiles=len(plan),
        tissue_tiles=tissue_tiles,
        model=job.model,
        steps=settings.get("steps"),
        seed=settings.get("seed"),
        seconds=round(time.monotonic() - began, 3),
        seconds_by_stage={k: round(v, 3) for k, v in sorted(clock.seconds.items())},
        peak_rss_mb=peak_rss_mb(),
        sha256_pixels=None if resumed_tiles else layers[0].sha256(),
        resumed_rows=rows_done,
        resumed_tiles=resumed_tiles,
        unreadable_tiles=len(unreadable or ()),
        uncertainty=None
        if job.uncertainty is None
        else {
            "output": str(companion_path(job.output)),
            "samples": job.uncertainty,
            **summary.figures(),
        },
    )


def open_map(job: Job, spec: PyramidSpec, writer: PyramidWriter) -> PyramidWriter:
    """The writer of the uncertainty map beside the output that `writer` makes."""
    # a run that was killed between its two outputs has left the map finished: it is made again
    going_on = bool(done_tiles(writer).any())
    return open_writer(
        companion_path(job.output),
        spec,
        threads=1,
        overwrite=job.overwrite or going_on,
        resume=True if going_on else job.resume,
        fingerprint=fingerprint(spec),
    )


def write_windows(
    plan: Plan,
    images: Iterable[tuple[ReadWindow, Computed]],
    layers: Sequence[Layer],
    summary: Summary,
    clock: Stopwatch,
    progress: Progress | None,
    *,
    exact: bool,
) -> int:
    """Hand every image to its layer, and its map of deviations, if there is one, to a second.

    Returns:
        How many windows the model was run on.
    """
    tissue_tiles = 0
    for done, (item, image) in enumerate(images, 1):
        is_tissue = item.tissue is not None
        tissue_tiles += is_tissue
        layers[0].push(
            item.window, image.pixels, clock, partial(fit, item, plan) if exact else None
        )
        for layer in layers[1:]:
            counts = no_deviation(plan.window) if image.deviation is None else image.deviation
            counted = summary.add if is_tissue else None
            layer.push(item.window, as_counts(counts), clock, counted)
        if progress is not None:
            progress(done, len(plan))
    return tissue_tiles


def fit(item: ReadWindow, plan: Plan, cell: Cell) -> None:
    """Exact consistency of a finished cell with the input under its window."""
    if item.lr is not None:
        fit_cell(cell, item.lr, item.left, item.top, round(plan.scale))


def no_deviation(window: int) -> NDArray[np.float32]:
    """The map of glass, float32 (window, window, 1): every sample of it is the same."""
    return np.zeros((window, window, 1), np.float32)
