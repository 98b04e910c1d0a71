"""The files of a report on a cohort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from wsisr.evaluation.report import to_json
from wsisr.files import os_errors, write_atomic
from wsisr.guard import refuse_foreign, refuse_inputs, refuse_links
from wsisr.parsing import MalformedError, read_json_object
from wsisr.scaleout.cohort.report.html import to_html
from wsisr.scaleout.cohort.report.wording import one_line, relative
from wsisr.scaleout.cohort.rows import ReportRow, Status
from wsisr.sharing import shareable, to_csv
from wsisr.version import VERSION


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report.

    Attributes:
        csv: one line a slide.
        json: the same with totals, settings and version.
        html: the page.
    """

    csv: Path
    json: Path
    html: Path


def write_report(
    rows: Sequence[ReportRow],
    folder: Path,
    *,
    settings: Mapping[str, object] | None = None,
    seconds: float | None = None,
    name: str = "report",
) -> ReportPaths:
    """Writes the report on a cohort; each file is the old or the new one, whatever happens.

    URLs are written without user, password and query, and files without their folders, so that the
    report can be passed on.

    Args:
        rows: what became of each slide.
        folder: of the report, which is that of the results; made where it is missing.
        settings: what the command was given, for the JSON.
        seconds: duration of the command.
        name: of the files, without suffix.

    Returns:
        The files.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows = [row.shareable() for row in rows]
    paths = ReportPaths(*(folder / f"{name}.{kind}" for kind in ("csv", "json", "html")))
    written = datetime.now(UTC).isoformat(timespec="seconds")
    report = {
        "wsisr": VERSION,
        "written": written,
        "settings": shareable(settings or {}),
        "totals": _totals(rows, seconds),
        "slides": [_as_json(row, folder) for row in rows],
    }
    texts = {
        paths.csv: _to_csv(rows, folder),
        paths.json: to_json(report),
        paths.html: to_html(rows, folder, seconds=seconds, written=written),
    }
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with os_errors(path):
            # names of files may hold bytes that are no text
            write_atomic(path, text.encode("utf-8", "replace"))
    return paths


def check_report(folder: Path, inputs: Iterable[Path]) -> None:
    """Makes sure that a report replaces nothing but an older report.

    Args:
        folder: of the report, which need not exist.
        inputs: files and folders that are read.

    Raises:
        UsageError: a file of the report is an input, or was not made by a cohort.
    """
    files = [folder / f"report.{kind}" for kind in ("csv", "json", "html")]
    refuse_inputs(files, (path for path in inputs if not path.is_dir()))
    refuse_links(files)
    is_ours = _is_own(folder / "report.json")
    for path in files:
        refuse_foreign(path, lambda _: is_ours, overwrite=True)


def _is_own(path: Path) -> bool:
    try:
        report = read_json_object(path)
    except MalformedError:
        return False
    return "wsisr" in report and "slides" in report


def _totals(rows: Sequence[ReportRow], seconds: float | None) -> dict[str, object]:
    counts = Counter(row.status for row in rows)
    return {
        "slides": len(rows),
        **{status: counts[status] for status in get_args(Status)},
        "seconds": seconds,
        "seconds_of_slides": sum(row.seconds or 0.0 for row in rows),
    }


def _fields(row: ReportRow, folder: Path) -> dict[str, Any]:
    """Gives the columns of a row but for the figures."""
    output = relative(row.output, folder)
    return {
        "id": one_line(row.id),
        "slide": one_line(row.slide),
        "output": one_line(row.output.name) if output is None else output,
        "status": row.status,
        "reason": one_line(row.reason),
        "seconds": _rounded(row.seconds, 3),
        "mpix_per_s": _rounded(row.mpix_per_s, 4),
        "tissue_tiles": row.tissue_tiles,
        "peak_rss_mb": _rounded(row.peak_rss_mb, 1),
        "device": one_line(row.device),
        "attempts": row.attempts,
        "sha256_pixels": row.sha256_pixels,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _as_json(row: ReportRow, folder: Path) -> dict[str, object]:
    return {**_fields(row, folder), "figures": dict(row.figures)}


def _to_csv(rows: Sequence[ReportRow], folder: Path) -> str:
    """Gives one line a slide; each measure is a column, and what is not known is blank."""
    measures = list(dict.fromkeys(name for row in rows for name in row.figures))
    fields = list(_fields(ReportRow("", "", Path(), "done"), folder))
    lines = [
        [*_fields(row, folder).values(), *(row.figures.get(name) for name in measures)]
        for row in rows
    ]
    return to_csv([[*fields, *measures], *lines])
