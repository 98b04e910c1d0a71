"""How large an output will be, from a sample of the slide, and whether the disk has room for it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisr.engine.preparation import Run, is_lossless, open_view
from wsisr.engine.uncertainty import companion_path
from wsisr.engine.windows import find_tissue_windows, resize_glass
from wsisr.errors import OutputError, SlideError
from wsisr.plan import Axis
from wsisr.pyramid import PyramidSpec, tile_encoder
from wsisr.resize import AxisWeights, axis_weights, halve
from wsisr.slides import View

TISSUE_SAMPLES, GLASS_SAMPLES = 16, 4
SAMPLE_PX = 512
SMALLEST_PX = 64
"""A sample is halved down to this side; what a pixel takes at coarser levels is like there."""
LOSSY_DETAIL, LOSSLESS_DETAIL = 0.4, 0.2
"""A model's pixels take more bytes than bicubic ones: by their enlargement to these powers."""
MAP_SHARE = 0.25
"""Bytes of an uncertainty map for each uncompressed byte of it."""
INDEX_BYTES = 64
"""Of each tile in directories and journal."""
MARGIN = 1.2
"""The estimate's error, so that a run that is let through does fit."""

Image = NDArray[np.uint8]


def estimate_size(run: Run, tissue_windows: NDArray[np.bool_]) -> int:
    """Estimates the bytes of a run's outputs.

    A few windows are read, resized without a model, and coded at each level. Damaged tiles count
    as background.

    Args:
        run: says what is written.
        tissue_windows: bool (rows, columns), where the model runs.

    Raises:
        SlideError: the slide cannot be opened.
        UsageError: the output's suffix is unknown.
    """
    spec, encode = run.image, tile_encoder(run.job.output, run.image)
    share = float(tissue_windows.mean())
    with open_view(run.job, set()) as view:
        tissue = _rates(_samples(run, view, tissue_windows, TISSUE_SAMPLES), spec, encode)
        glass = _rates(_samples(run, view, ~tissue_windows, GLASS_SAMPLES), spec, encode)
    detail = _detail(run)
    total = 0.0
    for level, (width, height) in enumerate(spec.levels):
        enlargement = max(1.0, run.plan.scale / 2**level)
        rate = share * tissue[min(level, len(tissue) - 1)] * enlargement**detail
        rate += (1 - share) * glass[min(level, len(glass) - 1)]
        total += rate * width * height + INDEX_BYTES * math.prod(spec.grid(level))
    if run.map is not None:
        total += MAP_SHARE * share * pyramid_pixels(run.map)
    return round(total)


def _detail(run: Run) -> float:
    if run.job.model == "bicubic":
        return 0.0
    return LOSSLESS_DETAIL if is_lossless(run.job) else LOSSY_DETAIL


def pyramid_pixels(spec: PyramidSpec) -> int:
    """Counts the pixels of all levels."""
    return sum(width * height for width, height in spec.levels)


def _samples(
    run: Run, view: View, wanted: NDArray[np.bool_], count: int
) -> Iterator[NDArray[np.uint8]]:
    """Yields some of the wanted windows, spread over them evenly, resized without a model."""
    places = np.argwhere(wanted)
    count = min(count, len(places))
    # one anywhere in each stretch: equal steps could fall into the same columns over and over
    within = np.random.default_rng(0).random(count)
    for place in ((np.arange(count) + within) * len(places) / max(1, count)).astype(int):
        row, column = places[place]
        rows = _weights(run, run.plan.rows, run.plan.window_rows[row])
        columns = _weights(run, run.plan.columns, run.plan.window_columns[column])
        try:
            pixels = view.read(
                columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
            )
        except SlideError:
            continue  # the run itself says so, when and if it comes there
        yield np.ascontiguousarray(resize_glass(pixels, rows, columns))


def _weights(run: Run, axis: Axis, index: int) -> AxisWeights:
    start = min(index * axis.stride, max(0, axis.size - SAMPLE_PX))
    count = min(SAMPLE_PX, axis.size)
    return axis_weights(start, count, axis.size, run.plan.scale, axis.view_size)


def _rates(
    samples: Iterator[Image], spec: PyramidSpec, encode: Callable[[Image], bytes]
) -> list[float]:
    """Gives the bytes a pixel of each level; the header of a tile is spread over its pixels."""
    header = len(encode(np.full((16, 16, 3), spec.background, np.uint8)))
    found: list[list[float]] = []
    for sample in samples:
        image = sample
        rates: list[float] = []
        while min(image.shape[:2]) >= SMALLEST_PX or not rates:
            pixels = image.shape[0] * image.shape[1]
            own = (len(encode(image)) - header) / pixels + header / spec.tile**2
            # tiles of pure background share one
            rates.append(0.0 if (image == spec.background).all() else own)
            image = halve(image)
        found.append(rates)
    return [float(np.mean(rates)) for rates in zip(*found, strict=True)] or [0.0]


def journal_bytes(spec: PyramidSpec) -> int:
    """Counts what a run keeps beside its output until it is complete: pieces of tiles."""
    return 3 * spec.tile * spec.width // 2 + 64 * 3 * (spec.tile // 2) ** 2


def check_room(run: Run) -> None:
    """Checks that the disk has room for a run, counting what an unfinished one takes already.

    Where even uncompressed pixels would fit nothing is estimated.

    Raises:
        OutputError: it has not, and the job does not say `force`.
        SlideError: the slide cannot be opened.
        UsageError: the output's suffix is unknown.
    """
    out = run.job.output
    if run.job.force or not out.parent.is_dir():
        return
    beside = journal_bytes(run.image)
    free = shutil.disk_usage(out.parent).free + _bytes_of_unfinished(run)
    if free > 1.1 * run.image.samples * pyramid_pixels(run.image) * (1 + bool(run.map)) + beside:
        return
    tissue = find_tissue_windows(run.plan, run.tissue)
    needed = MARGIN * estimate_size(run, tissue) + beside
    if needed > free:
        raise OutputError(
            f"{out}: the run needs about {needed / 1e9:.3g} GB and the disk of {out.parent} has "
            f"{free / 1e9:.3g} GB free; make room, choose another place, a lower <quality> or "
            "<scale>, or give <force>"
        )


def _bytes_of_unfinished(run: Run) -> int:
    """Counts what an unfinished run of the same output takes: it is gone on from, or removed."""
    outputs = [run.job.output] + ([companion_path(run.job.output)] if run.map else [])
    return sum(
        _bytes_of(out.with_name(f"{out.name}.{suffix}"))
        for out in outputs
        for suffix in ("partial", "pieces")
    )


def _bytes_of(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0
