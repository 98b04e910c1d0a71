"""Bands of a slide: rows of its output's tiles that are computed alone, in any process.

A band is written as a part, which `upscale` joins with the others by copying. All windows lie on
one grid, so its pixels are those of the whole; only the rows of windows that blend across its
border are computed twice.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from wsisr.engine.executor import OpenExecutor, open_executor
from wsisr.engine.job import Job
from wsisr.engine.output import open_outputs
from wsisr.engine.preparation import Run, open_view
from wsisr.engine.resume import find_missing
from wsisr.engine.run import Stream, smallest_block
from wsisr.engine.stream import Stopwatch
from wsisr.errors import OptionError, UsageError
from wsisr.files import remove
from wsisr.guard import refuse_foreign, refuse_links
from wsisr.plan import Plan, Rect
from wsisr.progress import Progress

_PART = re.compile(r".+\.ome\.(tiff?|zarr)\.(partial|journal|pieces|lock)", re.IGNORECASE)
"""What the files of parts are called."""


def split_rows(run: Run, count: int) -> list[range]:
    """Splits the rows of an output's tiles into bands of about one height.

    Args:
        run: the run.
        count: how many bands are wanted; there are fewer where the rows do not suffice.

    Raises:
        OptionError: the run cannot be split.
    """
    _check_splittable(run.job)
    rows, step = run.image.grid(0)[0], _row_step(run)
    steps = -(-rows // step)
    count = max(1, min(count, steps))
    ends = [min(rows, steps * (index + 1) // count * step) for index in range(count)]
    return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def part_path(output: Path, rows: range) -> Path:
    """Names the part of an output that has some rows of its tiles."""
    name = f"{rows.start}-{rows.stop}{''.join(output.suffixes[-2:])}"
    return parts_folder(output) / name


def parts_folder(output: Path) -> Path:
    """Names the folder of an output's parts, `<output>.parts`."""
    return output.with_name(output.name + ".parts")


def find_parts(output: Path) -> list[Path]:
    """Finds the parts of an output, whatever bands they are."""
    ending = "".join(output.suffixes[-2:]) + ".journal"
    journals = sorted(parts_folder(output).glob("*" + ending))
    return [path.with_name(path.name.removesuffix(".journal")) for path in journals]


def band_plan(run: Run, rows: range) -> Plan:
    """Gives the windows of some rows of the output's tiles."""
    region, tile = run.plan.region, run.image.tile
    top, bottom = rows.start * tile, min(rows.stop * tile, region.height)
    return replace(run.plan, region=Rect(region.x, region.y + top, region.width, bottom - top))


def remove_parts(output: Path) -> None:
    """Removes the parts of an output.

    Raises:
        UsageError: their folder holds something else.
    """
    folder = parts_folder(output)
    refuse_links([folder])
    refuse_foreign(folder, _has_parts_alone, overwrite=True)
    remove(folder)


def _has_parts_alone(folder: Path) -> bool:
    return folder.is_dir() and all(_PART.fullmatch(entry.name) for entry in folder.iterdir())


def compute_band(
    run: Run,
    rows: range,
    part: Path,
    progress: Progress | None = None,
    *,
    open_executor: OpenExecutor = open_executor,
) -> tuple[int, int]:
    """Computes some rows of the output's tiles into a part; goes on where one was begun.

    Args:
        run: the whole, of `prepare`; its output's suffix must be that of the part.
        rows: rows of the tiles of level 0, see `split_rows`.
        part: where the part is kept, as `<part>.partial` with its journal; its folder is made.
        progress: called after each window of the band.
        open_executor: starts what computes the windows.

    Returns:
        How many windows were gone through, and on how many of them the model was run.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    _check_splittable(run.job)
    _check_rows(run, rows)
    clock = Stopwatch()
    # a part is this run's own: another attempt goes on from it, whatever holds for the output
    job = replace(run.job, output=part, destination=None, overwrite=False, resume=None)
    run = replace(run, job=job)
    part.parent.mkdir(parents=True, exist_ok=True)
    damaged = None if run.damaged is None else set(run.damaged)
    with ExitStack() as stack:
        view = stack.enter_context(open_view(run.job, damaged))
        outputs = open_outputs(run, stack, clock)
        writers = [output.writer for output in outputs]
        missing = find_missing(writers, run.plan, smallest_block(run)).within(rows)
        computed = Stream(run, outputs, missing, clock).compute(view, open_executor, progress)
        for writer in writers:
            writer.leave()
    return computed.windows, computed.tissue_windows


def _row_step(run: Run) -> int:
    """Counts the rows of tiles from one place where a band may begin to the next."""
    block = smallest_block(run)
    return math.lcm(block, run.image.tile) // run.image.tile


def _check_splittable(job: Job) -> None:
    if job.uncertainty is not None:
        rule = "its figures need the whole slide in one run; leave it out, or do not split the run"
        raise OptionError("uncertainty", job.uncertainty, rule)


def _check_rows(run: Run, rows: range) -> None:
    count, step = run.image.grid(0)[0], _row_step(run)
    inside = 0 <= rows.start < rows.stop <= count
    if not inside or rows.start % step or (rows.stop % step and rows.stop != count):
        raise UsageError(
            f"rows {rows.start} to {rows.stop} of tiles are no band: give rows of 0 to {count} "
            f"that begin and end on a multiple of {step}"
        )
