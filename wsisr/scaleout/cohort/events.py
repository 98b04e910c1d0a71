"""A cohort told to other programs: one JSON object a line, appended as things happen.

Each line has `event` and `time` (UTC, ISO 8601). `started` has the inputs, `progress` how far the
cohort is, `slide` what became of a slide, and the last line is `finished` with the number of
slides of each status, or `failed` with the reason.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsisr.scaleout.cohort.run import CohortResult, CohortState
from wsisr.scaleout.events import PROGRESS_S, JsonLines, refuse_files_of_run
from wsisr.sharing import file_name, pseudonym, shareable
from wsisr.urls import is_url, last_part


class CohortEvents:
    """Appends what happens to a cohort to a file.

    Args:
        lines: where events go.
    """

    def __init__(self, lines: JsonLines) -> None:
        self._lines, self._told = lines, -PROGRESS_S

    def __call__(self, state: CohortState) -> None:
        """Notes how far the cohort is, every few seconds, and every slide that ends."""
        if state.ended is not None:
            row = dataclasses.asdict(state.ended.shareable())
            self._lines.write("slide", **shareable({**row, "output": file_name(row["output"])}))
        now = time.monotonic()
        if now - self._told >= PROGRESS_S or state.done == state.total:
            self._told = now
            fields = {**dataclasses.asdict(state), "seconds_to_go": state.seconds_to_go}
            fields.pop("ended")
            self._lines.write("progress", **fields)

    def finished(self, result: CohortResult) -> None:
        """Notes that the cohort is done."""
        statuses = [row.status for row in result.rows]
        counts = {status: statuses.count(status) for status in sorted(set(statuses))}
        self._lines.write("finished", **counts, seconds=round(result.seconds, 3))


@contextmanager
def open_cohort_events(
    path: Path, inputs: Sequence[str | Path], *, anonymous: bool = False
) -> Iterator[CohortEvents]:
    """Opens the file of events of a cohort, and notes there how the block ends if it fails.

    Args:
        path: the file.
        inputs: of the cohort.
        anonymous: whether digests stand for the names of the inputs.

    Yields:
        What is told how far the cohort is.

    Raises:
        OptionError: the file is an input, or holds something else.
        OutputError: the file cannot be written.
    """
    refuse_files_of_run(path, (Path(place) for place in inputs if not is_url(place)))
    lines = JsonLines(path)
    lines.places = tuple(Path(place) for place in inputs if not is_url(place))
    name = pseudonym if anonymous else last_part
    try:
        lines.write("started", inputs=[name(str(place)) for place in inputs])
        yield CohortEvents(lines)
    except BaseException as error:
        lines.failed(error)
        raise
    finally:
        lines.close()
