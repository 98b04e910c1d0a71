"""A run told to other programs: one JSON object a line, appended as things happen.

Each line has `event`, `time` (UTC, ISO 8601) and `slide`. `started` has the plan and the settings,
`progress` the fields of `State`, `warning` a message, and the last line is `finished`, with the
fields of `Result`, or `failed`, with the reason. Lines are written whole, so that after a crash
all but perhaps the last can be parsed.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from wsisr.engine import Foresight, Job, Result, files_read, paths_written
from wsisr.errors import OptionError
from wsisr.files import os_errors
from wsisr.guard import is_empty, is_same
from wsisr.progress import State
from wsisr.sharing import file_name, shareable, without_folders

PROGRESS_S = 5.0
EVENT_BEGIN = b'{"event": "'
"""How each line of a file of events begins."""


class JsonLines:
    """Appends events to a file, for any thread.

    Args:
        path: the file; what it holds already is kept.

    Attributes:
        places: files whose folders are left out of reasons.
        names: what stands for names that are not to be told.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self.places: tuple[Path | None, ...] = ()
        self.names: dict[str, str] = {}
        with os_errors(path):
            self._file = path.open("ab+", buffering=0)
            # a killed run may have left half a line
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """Appends a line with the event, the time and other fields."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"event": event, "time": now, **fields}, default=str)
        for hidden, stand_in in self.names.items():
            line = line.replace(json.dumps(hidden)[1:-1], stand_in)
        with self._lock, os_errors(self._path):
            self._file.write(line.encode() + b"\n")

    def failed(self, error: BaseException, **fields: Any) -> None:
        """Appends that what was told of has ended without success."""
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        name = type(error).__name__
        self.write("failed", **fields, reason=self.told(reason) or name, error=name)

    def told(self, text: str) -> str:
        """Gives a text without folders."""
        return without_folders(text, *self.places)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class EventLog:
    """Appends what happens in a run to a file.

    Args:
        path: the file; what it holds already is kept.
        job: what is run.
    """

    def __init__(self, path: Path, job: Job) -> None:
        self._job, self._lines = job, JsonLines(path)
        self._lines.places = job.source, job.output, job.tissue_out
        if job.anonymous:
            stem = job.source.stem
            self._lines.names = {job.source.name: job.shown_name, stem: job.shown_name}
        self._told = -PROGRESS_S

    def announce(self, foresight: Foresight) -> None:
        """Notes that the run starts."""
        settings = shareable(dataclasses.asdict(self._job)) | {"source": self._job.shown_name}
        self._write("started", plan=shareable(dataclasses.asdict(foresight)), settings=settings)

    def progress(self, state: State) -> None:
        """Notes how far the run is, every few seconds and at the end."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_S or state.done == state.total:
            self._told = now
            self._write(
                "progress",
                **dataclasses.asdict(state),
                mpix_per_s=state.mpix_per_s,
                seconds_to_go=state.seconds_to_go,
            )

    def warning(self, message: str) -> None:
        """Notes a warning."""
        self._write("warning", message=self._lines.told(message))

    def finished(self, result: Result) -> None:
        """Notes that the output is complete."""
        fields = dataclasses.asdict(result)
        self._write("finished", **shareable({**fields, "output": file_name(result.output)}))

    def failed(self, error: BaseException) -> None:
        """Notes that the run has ended without an output."""
        self._lines.failed(error, slide=self._job.shown_name)

    def _write(self, event: str, **fields: Any) -> None:
        self._lines.write(event, slide=self._job.shown_name, **fields)

    def close(self) -> None:
        """Closes the file."""
        self._lines.close()


class _Warnings(logging.Handler):
    """Passes warnings of the program's loggers on to the events."""

    def __init__(self, events: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        self._events.warning(record.getMessage())


@contextmanager
def open_events(path: Path, job: Job) -> Iterator[EventLog]:
    """Opens the file of events of a run, and notes there how the block ends if it fails.

    Args:
        path: the file.
        job: what is run.

    Yields:
        What the run is told to.

    Raises:
        OptionError: the run reads or writes the file, or it holds something else.
        OutputError: the file cannot be written.
    """
    outputs = [job.output, *([job.tissue_out] if job.tissue_out else [])]
    refuse_files_of_run(path, [*files_read(job), *paths_written(job), *outputs])
    events = EventLog(path, job)
    handler = _Warnings(events)
    logger = logging.getLogger("wsisr")
    logger.addHandler(handler)
    try:
        yield events
    except BaseException as error:
        events.failed(error)
        raise
    finally:
        logger.removeHandler(handler)
        events.close()


def refuse_files_of_run(path: Path, used: Iterable[Path]) -> None:
    """Refuses to append events to a file that a run reads or writes, or that holds something else.

    Args:
        path: the file of events.
        used: what the run reads and writes.

    Raises:
        OptionError: the path is one of them, or no file of events.
    """
    for other in used:
        # what the run writes need not be there yet
        if path.resolve() == other.resolve() or is_same(path, other):
            raise OptionError("log_json", path, f"is {other} already; choose another name")
    if os.path.lexists(path) and not is_empty(path) and not _has_events(path):
        rule = "is there and holds no events, and is not added to; choose another name"
        raise OptionError("log_json", path, rule)


def _has_events(path: Path) -> bool:
    """Tells whether a file begins with an event, or with half of one."""
    try:
        with path.open("rb") as file:
            return file.read(len(EVENT_BEGIN)) == EVENT_BEGIN
    except OSError:
        return False
