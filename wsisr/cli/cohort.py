"""How far a cohort is, for people: two bars on a terminal, and else a line a slide."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsisr.cli.telling import note, tell

if TYPE_CHECKING:
    from wsisr.scaleout.cohort import CohortResult, CohortState, ReportRow, Watch

DRAW_S, LINE_S = 0.2, 60.0
BAR = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}]"


def run_cohort(
    inputs: Sequence[str], out: Path, log_json: Path | None, **options: Any
) -> CohortResult:
    """Upscales a cohort, and says how it goes.

    Args:
        inputs: slides, folders, patterns and URLs, or a manifest.
        out: folder of the results.
        log_json: file that events are appended to; None appends none.
        options: see `wsisr.batch`.

    Raises:
        WsisrError: what is wrong with which input or option.
    """
    import wsisr

    if log_json is None:
        with show_cohort() as show:
            return wsisr.batch(inputs, out, watch=show, **options)
    from wsisr.scaleout.cohort import open_cohort_events

    hidden = bool(options.get("anonymous"))
    with (
        open_cohort_events(log_json, inputs, anonymous=hidden) as events,
        show_cohort() as show,
    ):

        def watch(state: CohortState) -> None:
            show(state)
            events(state)

        result = wsisr.batch(inputs, out, watch=watch, **options)
        events.finished(result)
        return result


def show_cohort_plan(
    inputs: Sequence[str],
    out: Path,
    as_json: bool,
    *,
    scheduler: str | None,
    retries: int,
    cache: Path | None,
    cache_gb: float | None,
    **options: Any,
) -> None:
    """Prints on stdout what a cohort will be.

    Args:
        inputs: slides, folders, patterns and URLs, or a manifest.
        out: folder of the results.
        as_json: whether as one JSON object.
        scheduler: of a cluster, whose workers' number and speed are not known here.
        retries: not asked for.
        cache: not asked for, since no slide behind a URL is opened.
        cache_gb: the same.
        options: see `wsisr.foresee_batch`.

    Raises:
        WsisrError: what is wrong with which input or option.
    """
    import wsisr
    from wsisr.progress import as_duration, as_size

    plan = wsisr.foresee_batch(inputs, out, **options)
    if scheduler is not None:
        plan = dataclasses.replace(plan, seconds=None)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(plan), default=str))
        return
    for slide in plan.slides:
        click.echo(f"{slide.id}: {slide.foresight or slide.reason}")
    free = "" if plan.free_bytes is None else f"; {as_size(plan.free_bytes)} are free"
    seconds = "unknown" if plan.seconds is None else f"about {as_duration(plan.seconds)}"
    count = sum(slide.foresight is not None for slide in plan.slides)
    click.echo(f"{count} of {len(plan.slides)} slides to compute, {plan.places} at once")
    click.echo(f"disk: {as_size(plan.output_bytes)}{free}{'' if plan.fits else ', TOO LITTLE'}")
    click.echo(f"time: {seconds}")


@contextmanager
def show_cohort() -> Iterator[Watch]:
    """Shows on stderr how far a cohort is, and yields what it is told by."""
    if not sys.stderr.isatty():
        yield lines()
        return
    from tqdm import tqdm

    with (
        tqdm(total=1.0, file=sys.stderr, bar_format=BAR, position=0) as whole,
        tqdm(total=0, file=sys.stderr, bar_format="{desc}", position=1, leave=False) as slides,
    ):
        drawn = 0.0

        def draw(state: CohortState) -> None:
            nonlocal drawn
            if state.ended is not None:
                tqdm.write(describe(state.ended), file=sys.stderr)
                note(describe(state.ended))
            if time.monotonic() - drawn < DRAW_S and state.done < state.total:
                return
            drawn = time.monotonic()
            whole.n = state.share
            whole.set_postfix_str(summary(state), refresh=False)
            whole.refresh()
            slides.set_description_str(under_way(state))

        yield draw


def lines() -> Watch:
    """Gives what writes a line on stderr for each slide that ends, and one a minute between."""
    due = 0.0

    def write(state: CohortState) -> None:
        nonlocal due
        now = time.monotonic()
        if state.ended is not None:
            tell(f"{describe(state.ended)} ({summary(state)})")
        elif now >= due:
            tell(f"{summary(state)}: {under_way(state)}" if state.running else summary(state))
        else:
            return
        due = now + LINE_S

    return write


def summary(state: CohortState) -> str:
    """Says how many slides are done, and how long the rest takes."""
    from wsisr.progress import as_duration

    text = f"{state.done} of {state.total} slides"
    if state.failed:
        text += f", {state.failed} failed"
    if state.seconds_to_go is not None and state.done < state.total:
        text += f", {as_duration(state.seconds_to_go)} to go"
    return text


def under_way(state: CohortState) -> str:
    """Says how far the slides are that are being computed."""
    parts = [
        f"{name} {100 * done // total if total else 0} %"
        for name, (done, total) in sorted(state.running.items())
    ]
    return "  ".join(parts)


def describe(row: ReportRow) -> str:
    """Says what became of a slide, in a line."""
    reason = f": {row.reason}" if row.reason else ""
    seconds = "" if row.seconds is None else f" in {row.seconds:.0f} s"
    return f"{row.id} {row.status}{seconds}{reason}"
