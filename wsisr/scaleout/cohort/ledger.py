"""What is known of each slide of a cohort between commands: one small file a slide."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from wsisr.engine import Job, files_read
from wsisr.errors import OutputError, SlideError
from wsisr.files import os_errors, write_atomic
from wsisr.parsing import read_json_object
from wsisr.scaleout.cohort.rows import ReportRow
from wsisr.version import VERSION

FOLDER = ".wsisr"
"""Folder beside the results that holds claims and what is known of the slides."""
_NOT_OF_PIXELS = frozenset(
    {"output", "destination", "batch", "device", "gpus", "workers", "overwrite", "resume", "force"}
)
"""Fields of a job that say where or how it runs, and not what comes out."""


_ROWS = TypeAdapter(ReportRow)


@dataclass(frozen=True)
class Known:
    """What a command noted of a slide.

    Attributes:
        row: what became of it.
        request: digest of what was asked for, see `request_of`.
        written: size and time of the output as it was finished, see `state_of`.
        command: which command noted it.
    """

    row: ReportRow
    request: str
    written: tuple[int, int] | None
    command: str


class Ledger:
    """What is known of the slides whose results lie in a folder.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self._results, self.folder = folder, folder / FOLDER

    def read(self, name: str) -> Known | None:
        """Gives what is known of a slide; None for nothing, or what cannot be read."""
        try:
            fields: dict[str, Any] = read_json_object(self.folder / f"{name}.json")
            row = _ROWS.validate_python(fields["row"])
            row = dataclasses.replace(row, output=self._results / row.output)
            if row.id != name:
                return None
            written = fields["written"]
            return Known(
                row,
                str(fields["request"]),
                None if written is None else (int(written[0]), int(written[1])),
                str(fields["command"]),
            )
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError):
            return None

    def write(self, known: Known) -> None:
        """Notes what became of a slide.

        Raises:
            OutputError: the folder cannot be written.
        """
        row = dataclasses.asdict(known.row.shareable())
        # absolute paths are private, and end with a folder that is moved
        row["output"] = os.path.relpath(known.row.output, self._results)
        fields = {**dataclasses.asdict(known), "row": row}
        path = self.folder / f"{known.row.id}.json"
        with os_errors(path):
            write_atomic(path, json.dumps(fields, default=str))

    def names(self) -> list[str]:
        """Lists the slides that something is known of."""
        return sorted(path.stem for path in self.folder.glob("*.json"))


def make_folder(results: Path) -> None:
    """Makes the folders of a cohort.

    Raises:
        OutputError: they cannot be made.
    """
    for folder in (results / FOLDER, results / "logs"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"{results}: cannot be written ({reason}); choose a folder you may write to"
            ) from error


def request_of(job: Job, slide: str) -> str:
    """Gives a digest of what is asked for: the input as it is now, and all that makes pixels.

    Args:
        job: what is asked for.
        slide: path or URL of the input, of which the name counts.
    """
    fields = {
        name: value
        for name, value in dataclasses.asdict(job).items()
        if name not in _NOT_OF_PIXELS and name != "source"
    }
    parts = [VERSION, slide.rpartition("/")[2], _states(job), fields]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _states(job: Job) -> list[tuple[str, tuple[int, int] | None]]:
    """Gives the names and states of all files that a job reads."""
    try:
        paths = files_read(job)
    except SlideError:
        paths = [job.source]
    files = [
        each
        for path in paths
        for each in ([path, *sorted(path.rglob("*"))] if path.is_dir() else [path])
    ]
    return [(file.name, state_of(file)) for file in files]


def state_of(path: Path) -> tuple[int, int] | None:
    """Gives size in bytes and time in ns of a file, or of a folder; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
