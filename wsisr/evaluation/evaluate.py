"""`wsisr eval`: slide against slide, folder against folder, or a slide alone.

Open -> register -> choose tissue tiles -> measure them in threads -> summarize with intervals ->
write the report. Memory is bounded by the tiles in flight (two a worker) and an overview.
"""

from __future__ import annotations

import math
import os
import platform
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from wsisr.errors import SlideError, WsisrError
from wsisr.evaluation.measures import Measurement, Metric, Sample, Scan
from wsisr.evaluation.measures import table as metrics
from wsisr.evaluation.nuclei import (
    ClassicalSegmenter,
    GivenNuclei,
    Segmenter,
    Unmatched,
    UnmatchedFiles,
    find_unmatched,
)
from wsisr.evaluation.pairing import (
    ACCEPTED_RESIDUAL,
    Alignment,
    FolderSource,
    Place,
    SlideSource,
    Source,
    Views,
    load_transform,
    pixel_size,
    register,
)
from wsisr.evaluation.report import Evaluation, TileResult, write_report
from wsisr.evaluation.statistics import BOOTSTRAP_DRAWS, bootstrap
from wsisr.slides import open_slide

NONE_BESIDE: Mapping[str, Path] = {}


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Judged:
    """A tile's measurements and, by method, its nuclei without a match; `drawn` where wanted."""

    tile: TileResult
    unmatched: Mapping[str, Mapping[str, int]]
    drawn: Mapping[str, Sequence[Unmatched]]


@dataclass(frozen=True)
class Options:
    """What all three kinds of evaluation share."""

    only: Sequence[str] | None = None
    """Names of measures; None for all that can run."""
    tile: int = 512
    count: int | None = 200
    """Tissue tiles drawn by `seed`; None for all."""
    seed: int = 0
    workers: int = field(default_factory=available_cores)
    """Tiles judged at once, each on one core. Results do not depend on it."""
    out: Path | None = None
    """Folder for report.html, tiles.csv, summary.json, tiles.geojson and lost_and_invented."""
    force: bool = False
    """Give full-reference measures whatever the registration's residual."""
    segmenter: Segmenter = field(default_factory=ClassicalSegmenter)
    show_progress: bool = False


def evaluate_slides(
    sr: Path,
    hr: Path,
    lr: Path | None = None,
    *,
    options: Options = Options(),
    transform: Path | None = None,
    sr_mpp: float | None = None,
    hr_mpp: float | None = None,
    method: str = "sr",
    also: Mapping[str, Path] = NONE_BESIDE,
) -> Evaluation:
    """Compare a super-resolved slide with a real scan of the same glass.

    `transform` is a JSON file with a matrix from SR's to HR's level-0 pixels, instead of
    registration. With `lr`, the slide that was upscaled, LR consistency and a bicubic baseline
    join. `also` holds further results, {label: slide}, on SR's grid and judged at the same places
    by SR's registration; what that leaves over is measured for each. Raises `UsageError` for
    options that do not fit, `SlideError` for slides that cannot be read or do not show the same
    tissue.
    """
    matrix = load_transform(transform) if transform is not None else None
    with ExitStack() as stack:
        sr_slide, hr_slide = (stack.enter_context(open_slide(path)) for path in (sr, hr))
        lr_slide = stack.enter_context(open_slide(lr)) if lr is not None else None
        alignment = register(sr_slide, hr_slide, sr_mpp, hr_mpp, matrix)
        source = SlideSource(
            sr_slide,
            pixel_size(sr_slide, sr_mpp, "sr"),
            hr_slide,
            lr_slide,
            np.array(alignment.matrix),
            options.tile,
            options.count,
            options.seed,
            {label: stack.enter_context(open_slide(path)) for label, path in also.items()},
        )
        alignments = {method: alignment}
        for label, slide in source.also.items():
            alignments[label] = register(slide, hr_slide, transform=np.array(alignment.matrix))
        inputs = {"sr": sr, "hr": hr, "lr": lr, "transform": transform, **_inputs(also)}
        return _evaluate(source, method, options, inputs, alignments)


def evaluate_alone(
    sr: Path,
    lr: Path | None = None,
    *,
    options: Options = Options(),
    sr_mpp: float | None = None,
    method: str = "sr",
    also: Mapping[str, Path] = NONE_BESIDE,
) -> Evaluation:
    """Judge a super-resolved slide without a reference: no-reference measures and consistency.

    Raises as `evaluate_slides`; a missing pixel size counts as 0.25 um/px.
    """
    with ExitStack() as stack:
        slide = stack.enter_context(open_slide(sr))
        lr_slide = stack.enter_context(open_slide(lr)) if lr is not None else None
        mpp = sr_mpp or slide.mpp or 0.25
        others = {label: stack.enter_context(open_slide(path)) for label, path in also.items()}
        source = SlideSource(
            slide, mpp, None, lr_slide, None, options.tile, options.count, options.seed, others
        )
        return _evaluate(source, method, options, {"sr": sr, "lr": lr, **_inputs(also)}, {})


def evaluate_tiles(
    sr: Path,
    hr: Path,
    lr: Path | None = None,
    *,
    scale: int | None = None,
    mpp: float = 0.25,
    options: Options = Options(),
    method: str = "sr",
    also: Mapping[str, Path] = NONE_BESIDE,
) -> Evaluation:
    """Compare folders of tiles that pair by relative name; sub-folders count as slides.

    LR tiles come from the folder `lr`, or from HR by an area average by `scale`. Raises
    `UsageError` naming the tiles that have no partner, `SlideError` where no tile can be read.
    """
    source = FolderSource(sr, hr, lr, scale, mpp, also)
    return _evaluate(source, method, options, {"sr": sr, "hr": hr, "lr": lr, **_inputs(also)}, {})


def _inputs(also: Mapping[str, Path]) -> dict[str, Path | None]:
    return {f"also {label}": path for label, path in also.items()}


def _evaluate(
    source: Source,
    method: str,
    options: Options,
    inputs: Mapping[str, Path | None],
    alignments: Mapping[str, Alignment],
) -> Evaluation:
    chosen, not_run = metrics.available(options.only)
    by_method = _leave_out_misaligned(chosen, not_run, method, alignments, options.force)
    chosen = by_method.get(method, chosen)
    results, unmatched_nuclei, failed = _measure(source, method, chosen, by_method, options)
    if not results:
        raise SlideError(f"no tile of {inputs['sr']} could be read: {next(iter(failed.values()))}")
    names = list(dict.fromkeys(name for tile in results for name in tile.values))
    _note_unmet(chosen, not_run, results, options.segmenter)
    rows = {name: [tile.values[name] for tile in results if name in tile.values] for name in names}
    if method != "bicubic" and "bicubic" not in rows:
        not_run["bicubic"] = "no low-resolution input to enlarge; give it with --lr"
    intervals, unit = bootstrap(results, names, options.seed)
    conventions = metrics.conventions(chosen)
    conventions["intervals"] = f"95 % percentile bootstrap over {unit}, {BOOTSTRAP_DRAWS} draws"
    conventions["nuclei"] = options.segmenter.convention
    evaluation = Evaluation(
        methods={name: metrics.summarize(values) for name, values in rows.items()},
        intervals=intervals,
        undefined={name: _count_undefined(values) for name, values in rows.items()},
        unmatched=unmatched_nuclei,
        not_run=not_run,
        conventions=conventions,
        alignment=alignments.get(method),
        also_alignments={label: found for label, found in alignments.items() if label != method},
        inputs={name: str(path) for name, path in inputs.items() if path is not None},
        versions=versions(),
        mpp=source.mpp,
        tiles=tuple(results),
        failed=failed,
    )
    if options.out is not None:
        write_report(evaluation, source, options.out, chosen, options.segmenter)
    return evaluation


def _leave_out_misaligned(
    chosen: Sequence[Metric],
    not_run: dict[str, str],
    method: str,
    alignments: Mapping[str, Alignment],
    force: bool,
) -> dict[str, list[Metric]]:
    """Return {label: measures that make sense for it}; `alignments` begin with that of SR."""
    by_method = {}
    for label, alignment in alignments.items():
        by_method[label] = list(chosen)
        if alignment.accepted or force:
            continue
        reason = (
            f"the slides are misaligned by {alignment.residual_px:.2f} px (median of "
            f"{alignment.windows} windows; the limit is {ACCEPTED_RESIDUAL}); improve the "
            "registration with --transform, or give --force"
        )
        left_out = [metric.name for metric in chosen if "hr" in metric.needs]
        by_method[label] = [metric for metric in chosen if "hr" not in metric.needs]
        if label == method:  # bicubic and all others share its registration
            not_run.update(dict.fromkeys(left_out, reason))
            chosen = by_method[label]
        elif left_out:
            not_run[f"full-reference measures of {label}"] = reason
    return by_method


def _note_unmet(
    chosen: Sequence[Metric],
    not_run: dict[str, str],
    results: Sequence[TileResult],
    segmenter: Segmenter,
) -> None:
    measured = {name for tile in results for values in tile.values.values() for name in values}
    wanted = {
        "hr": "a real high-resolution scan",
        "lr": "the low-resolution input (--lr)",
        "sr_nuclei": "a --segmenter that finds nuclei in any image: those of HR alone are given",
    }
    if segmenter.searches:
        del wanted["sr_nuclei"]
    for metric in chosen:
        if metric.name not in measured:
            needs = " and ".join(wanted[need] for need in sorted(metric.needs & wanted.keys()))
            not_run[metric.name] = f"needs {needs}"


def _measure(
    source: Source,
    method: str,
    chosen: Sequence[Metric],
    by_method: Mapping[str, Sequence[Metric]],
    options: Options,
) -> tuple[list[TileResult], dict[str, Counter[str]], dict[str, str]]:
    """Return the tiles' results, the sums of nuclei without a match, and {tile: why it failed}.

    `by_method` overrules `chosen`.
    """

    def judge(place: Place) -> Judged:
        views = source.load(place)
        segmenter = options.segmenter
        if isinstance(segmenter, GivenNuclei):
            segmenter = segmenter.at(place.name, place.x, place.y, source.matrix)
        scan = None if views.hr is None else Scan(views.hr, source.mpp, segmenter)
        samples = {name: Sample(im, scan, views.lr) for name, im in _images(method, views)}
        values, counts, drawn = {}, {}, {}
        for name, sample in samples.items():
            own = by_method.get(name, chosen)
            values[name] = metrics.measure_tile(sample, own)
            compared = any("sr_nuclei" in metric.needs for metric in own)
            if compared and scan is not None and segmenter.searches:
                counts[name] = sample.nuclei_agreement.unmatched()
                if options.out is not None and name != "bicubic":
                    drawn[name] = find_unmatched(*sample.nuclei, sample.nuclei_agreement)
        return Judged(TileResult(place, values), counts, drawn)

    results, totals, failed = [], defaultdict[str, Counter[str]](Counter), {}
    progress = tqdm(
        total=len(source.places), unit="tile", desc="eval", disable=not options.show_progress
    )
    uses_torch = options.segmenter.uses_torch or any(metric.uses_torch for metric in chosen)
    begin = _torch_on_one_core if uses_torch else None
    with ExitStack() as stack:
        stack.enter_context(progress)
        files = None
        if options.out is not None:
            by_tile = source.size is None
            files = stack.enter_context(UnmatchedFiles(options.out, source.mpp, by_tile=by_tile))
        stack.enter_context(_one_thread_a_call())
        pool = stack.enter_context(ThreadPoolExecutor(options.workers, "eval", begin))
        for place, future in _in_flight(source.places, pool, judge, 2 * options.workers):
            try:
                judged = future.result()
            except WsisrError as error:
                failed[place.name] = str(error)
            else:
                results.append(judged.tile)
                for name, counts in judged.unmatched.items():
                    totals[name].update(counts)
                for name, nuclei in judged.drawn.items():
                    assert files is not None  # nothing is drawn otherwise
                    files.add(place, name, nuclei)
            progress.update()
    return results, dict(totals), failed


@contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own: the workers are one a core already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _torch_on_one_core() -> None:
    # holds for the calling worker; how sums are split among threads would change last digits
    import torch

    torch.set_num_threads(1)


def _in_flight(
    places: Sequence[Place],
    pool: ThreadPoolExecutor,
    judge: Callable[[Place], Judged],
    most: int,
) -> Iterator[tuple[Place, Future[Judged]]]:
    """Yield tiles in order as they are begun, never holding more than `most` at a time."""
    waiting: deque[tuple[Place, Future[Judged]]] = deque()
    for place in places:
        waiting.append((place, pool.submit(judge, place)))
        if len(waiting) >= most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _images(method: str, views: Views) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    yield method, views.sr
    yield from views.also.items()
    if views.bicubic is not None and method != "bicubic":
        yield "bicubic", views.bicubic


def _count_undefined(rows: Sequence[Mapping[str, Measurement]]) -> dict[str, int]:
    names = dict.fromkeys(name for row in rows for name in row)
    counts = {n: sum(math.isnan(row[n].value) for row in rows if n in row) for n in names}
    return {name: count for name, count in counts.items() if count}


def versions() -> dict[str, str]:
    """Return the versions that figures depend on."""
    names = ("wsisr", "numpy", "scipy", "scikit-image")
    found = {name: version(name) for name in names}
    return {"python": platform.python_version(), "opencv": cv2.__version__, **found}
