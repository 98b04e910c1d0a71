"""How far a run is, for people: a bar on a terminal, and else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsisr.cli.telling import tell

if TYPE_CHECKING:
    from wsisr.engine import Foresight
    from wsisr.progress import Progress, State

FIRST_S, LINE_S = 10.0, 60.0
"""When the first line is written where there is no terminal, and how often one after it."""
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}s [{elapsed}{postfix}]"


@contextmanager
def progress_bar(unit: str, *, at_once: bool = False) -> Iterator[Progress]:
    """Shows on stderr how far a run is, and yields what it is told by.

    Args:
        unit: what is counted.
        at_once: whether the first step is worth a line, where nothing was said of the run yet.
    """
    if not sys.stderr.isatty():
        yield lines(unit, at_once=at_once)
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, bar_format=BAR) as bar:

        def move(state: State) -> None:
            bar.total = state.total
            bar.set_postfix_str(describe(state), refresh=False)
            bar.update(state.done - bar.n)

        yield move


def lines(unit: str, *, at_once: bool = False) -> Progress:
    """Gives what writes a line on stderr once a minute, and first when the duration is known.

    Args:
        unit: what is counted.
        at_once: whether the first step has a line of its own.
    """
    due = time.monotonic() + (0.0 if at_once else FIRST_S)

    def write(state: State) -> None:
        nonlocal due
        now = time.monotonic()
        if now >= due and (at_once or state.seconds_to_go is not None):
            due = now + LINE_S
            tell(f"{state.done} of {state.total} {unit}s, {describe(state)}")

    return write


def describe(state: State) -> str:
    """Says how fast a run is and how long the rest takes."""
    from wsisr.progress import as_duration

    parts = [f"{state.mpix_per_s:.3g} MPix/s"]
    if state.tissue_total:
        parts.append(f"devices busy {100 * state.busy_share:.0f} %")
    if state.seconds_to_go is not None:
        parts.append(f"{as_duration(state.seconds_to_go)} to go")
    return ", ".join(parts)


def show_foresight(foresight: Foresight) -> None:
    """Says on stderr what a run will be, when it starts."""
    tell(str(foresight))
