"""Measures tiles in threads, each on one core, in order."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from wsisr.errors import WsisrError
from wsisr.evaluation.comparison import Comparison
from wsisr.evaluation.measures import Metric, Sample, Scan, measure_tile
from wsisr.evaluation.nuclei import GivenNuclei, Unmatched, UnmatchedFiles, find_unmatched
from wsisr.evaluation.options import Options
from wsisr.evaluation.pairing import Location, TileImages
from wsisr.evaluation.report import TileResult


@dataclass(frozen=True)
class MeasuredTile:
    """The measurements of one tile.

    Attributes:
        tile: the values.
        unmatched: {label: counts of nuclei without a match}.
        drawn: {label: those nuclei}, where a report wants them.
    """

    tile: TileResult
    unmatched: Mapping[str, Mapping[str, int]]
    drawn: Mapping[str, Sequence[Unmatched]]


@dataclass
class MeasuredTiles:
    """The measurements of all tiles.

    Attributes:
        results: the tiles that could be measured, in order.
        unmatched: {label: sums of nuclei without a match}.
        failed: {tile: why it could not be measured}.
    """

    results: list[TileResult] = field(default_factory=list)
    unmatched: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict[str, Counter[str]](Counter)
    )
    failed: dict[str, str] = field(default_factory=dict)


def measure_tiles(
    comparison: Comparison, by_label: Mapping[str, Sequence[Metric]], options: Options
) -> MeasuredTiles:
    """Measures all tiles of a comparison; nuclei without a match go to files where a report is.

    Args:
        comparison: what is compared.
        by_label: {label: measures of that result}; results that are not named get SR's.
        options: how many tiles are measured at once, and what finds nuclei.

    Returns:
        The measurements, in the order of the tiles whatever the number of workers.

    Raises:
        OutputError: the folder of the report cannot be written.
    """
    pairs, found = comparison.pairs, MeasuredTiles()

    def measure(location: Location) -> MeasuredTile:
        return _measure_tile(comparison, by_label, options, location)

    progress = tqdm(
        total=len(pairs.locations), unit="tile", desc="eval", disable=not options.show_progress
    )
    uses_torch = options.segmenter.uses_torch or any(
        metric.uses_torch for metrics in by_label.values() for metric in metrics
    )
    begin = _torch_on_one_core if uses_torch else None
    with ExitStack() as stack:
        stack.enter_context(progress)
        files = None
        if options.out is not None:
            writer = UnmatchedFiles(options.out, pairs.mpp, by_tile=pairs.size is None)
            files = stack.enter_context(writer)
        stack.enter_context(_one_thread_a_call())
        pool = stack.enter_context(ThreadPoolExecutor(options.workers, "eval", begin))
        for location, future in _in_flight(pairs.locations, pool, measure, 2 * options.workers):
            _collect(found, location, future, files)
            progress.update()
    return found


def _collect(
    found: MeasuredTiles,
    location: Location,
    future: Future[MeasuredTile],
    files: UnmatchedFiles | None,
) -> None:
    try:
        measured = future.result()
    except WsisrError as error:
        found.failed[location.name] = str(error)
        return
    found.results.append(measured.tile)
    for label, counts in measured.unmatched.items():
        found.unmatched[label].update(counts)
    if files is not None:
        for label, nuclei in measured.drawn.items():
            files.add(location, label, nuclei)


def _measure_tile(
    comparison: Comparison,
    by_label: Mapping[str, Sequence[Metric]],
    options: Options,
    location: Location,
) -> MeasuredTile:
    pairs, label = comparison.pairs, comparison.label
    images = pairs.load(location)
    segmenter = options.segmenter
    if isinstance(segmenter, GivenNuclei):
        segmenter = segmenter.at(location.name, location.x, location.y, pairs.matrix)
    scan = None if images.hr is None else Scan(images.hr, pairs.mpp, segmenter)
    values, counts, drawn = {}, {}, {}
    for name, image in _results(label, images):
        sample = Sample(image, scan, images.lr)
        own = by_label.get(name, by_label[label])
        values[name] = measure_tile(sample, own)
        compared = any("sr_nuclei" in metric.needs for metric in own)
        if compared and scan is not None and segmenter.searches:
            counts[name] = sample.nuclei_agreement.unmatched()
            if options.out is not None and name != "bicubic":
                drawn[name] = find_unmatched(*sample.nuclei, sample.nuclei_agreement)
    return MeasuredTile(TileResult(location, values), counts, drawn)


def _results(label: str, images: TileImages) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    yield label, images.sr
    yield from images.also.items()
    if images.bicubic is not None and label != "bicubic":
        yield "bicubic", images.bicubic


@contextmanager
def _one_thread_a_call() -> Iterator[None]:
    """Keeps OpenCV from starting threads of its own: the workers are one a core already."""
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
    locations: Sequence[Location],
    pool: ThreadPoolExecutor,
    measure: Callable[[Location], MeasuredTile],
    most: int,
) -> Iterator[tuple[Location, Future[MeasuredTile]]]:
    """Yields tiles in order as they are begun, never holding more than `most` at a time."""
    waiting: deque[tuple[Location, Future[MeasuredTile]]] = deque()
    for location in locations:
        waiting.append((location, pool.submit(measure, location)))
        if len(waiting) >= most:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
