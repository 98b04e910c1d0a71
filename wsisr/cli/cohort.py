"""How far a cohort is, for people: two bars on a terminal, and else a line a slide."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsisr.scaleout.cohort import CohortState, ReportRow, Watch

DRAW_S = 0.2
BAR = "{percentage:3.0f}%|{bar}| {postfix} [{elapsed}]"


@contextmanager
def show_cohort() -> Iterator[Watch]:
    """Shows on stderr how far a cohort is, and yields what it is told by."""
    if not sys.stderr.isatty():
        yield tell_ended
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
            if time.monotonic() - drawn < DRAW_S and state.done < state.total:
                return
            drawn = time.monotonic()
            whole.n = state.share
            whole.set_postfix_str(summary(state), refresh=False)
            whole.refresh()
            slides.set_description_str(under_way(state))

        yield draw


def tell_ended(state: CohortState) -> None:
    """Writes a line on stderr for each slide that ends."""
    if state.ended is not None:
        click.echo(f"{describe(state.ended)} ({summary(state)})", err=True)


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
