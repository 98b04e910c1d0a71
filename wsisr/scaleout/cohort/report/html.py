"""The page of a report on a cohort; `cohort.html.j2` beside this file holds words and markup."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from wsisr.engine import NOTICE
from wsisr.errors import WsisrError
from wsisr.evaluation.report import data_uri, page_template
from wsisr.scaleout.cohort.report.wording import duration, one_line, relative
from wsisr.scaleout.cohort.rows import ReportRow, Status
from wsisr.slides import open_slide, overview
from wsisr.urls import last_part
from wsisr.version import VERSION

PAGE_BYTES = 20_000_000
"""Thumbnails are left out where the page would become larger."""
THUMBNAIL_SIDE = 200
THUMBNAIL_QUALITY = 75
_PICTURE_MARKUP_BYTES = 100
_PACKAGE = "wsisr.scaleout.cohort"
ORDER: tuple[Status, ...] = ("failed", "interrupted", "done", "skipped", "elsewhere")
MEANINGS: dict[Status, str] = {
    "failed": "failed",
    "interrupted": "were interrupted; the same command goes on with them",
    "done": "were computed by this command",
    "skipped": "were finished before",
    "elsewhere": "are left to other commands",
}


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: what is shown.
        value: what the column is sorted by; None comes last.
        hint: more, for who points at it.
        kind: `number` is set to the right.
    """

    text: str
    value: str | float | None
    hint: str = ""
    kind: str = "number"


@dataclass(frozen=True)
class Line:
    """A slide on the page.

    Attributes:
        id: its name in the cohort.
        slide: name of its file.
        output: path of the result below the folder of the report, or the name alone.
        link: the same as a link; None where the result lies elsewhere.
        status: what became of it.
        rank: what the status is sorted by.
        reason: why there is no result.
        cells: the columns with figures.
        picture: the result, small, as a data URI; empty where there is none.
    """

    id: str
    slide: str
    output: str
    link: str | None
    status: Status
    rank: int
    reason: str
    cells: Sequence[Cell]
    picture: str = ""


def to_html(rows: Sequence[ReportRow], folder: Path, *, seconds: float | None, written: str) -> str:
    """Makes the page; thumbnails stand inside it as data URIs as long as `PAGE_BYTES` allows.

    Args:
        rows: what became of each slide; failed ones come first on the page.
        folder: of the report, which links start from.
        seconds: duration of the command, None where it is not known.
        written: when the report was written.

    Returns:
        The page as text.

    Memory:
        About three times the page.
    """
    ordered = sorted(rows, key=lambda row: ORDER.index(row.status))
    measures = list(dict.fromkeys(name for row in ordered for name in row.figures))
    lines = [_line(row, folder, measures) for row in ordered]
    bare = _render(lines, measures, seconds=seconds, written=written, left_out=0)
    room = PAGE_BYTES - len(bare.encode())
    pictured, left_out = _with_pictures(lines, ordered, room, folder)
    if pictured == lines and not left_out:
        return bare
    return _render(pictured, measures, seconds=seconds, written=written, left_out=left_out)


def _render(
    lines: Sequence[Line],
    measures: Sequence[str],
    *,
    seconds: float | None,
    written: str,
    left_out: int,
) -> str:
    counts = Counter(line.status for line in lines)
    script = files(_PACKAGE).joinpath("report/sorting.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    finished = counts["done"] + counts["skipped"]
    return page_template(_PACKAGE, "report", "cohort.html.j2").render(
        notice=NOTICE,
        script=script,
        script_digest=digest,
        finished=finished,
        total=len(lines),
        cards=[(counts[status], MEANINGS[status]) for status in ORDER if counts[status]],
        seconds=duration(seconds),
        columns=[*_COLUMNS, *map(one_line, measures), "SHA-256 of the pixels"],
        lines=lines,
        left_out=left_out,
        megabytes=PAGE_BYTES // 1_000_000,
        version=VERSION,
        written=written,
    )


_COLUMNS = ("time", "MPix/s", "tissue windows", "memory, MB", "device", "attempts")


def _line(row: ReportRow, folder: Path, measures: Sequence[str]) -> Line:
    output = relative(row.output, folder)
    cells = [
        Cell(duration(row.seconds), row.seconds),
        _number(row.mpix_per_s, "{:.2f}"),
        _number(row.tissue_tiles, "{:d}"),
        _number(row.peak_rss_mb, "{:.0f}"),
        Cell(one_line(row.device), row.device or None, kind="text"),
        _number(row.attempts or None, "{:d}"),
        *(_number(row.figures.get(name), "{:.4g}") for name in measures),
        Cell((row.sha256_pixels or "")[:12], row.sha256_pixels, row.sha256_pixels or "", "text"),
    ]
    return Line(
        id=one_line(row.id),
        slide=one_line(last_part(row.slide)),
        output=one_line(row.output.name) if output is None else output,
        link=None if output is None else quote(output),
        status=row.status,
        rank=ORDER.index(row.status),
        reason=one_line(row.reason),
        cells=cells,
    )


def _number(value: float | None, shape: str) -> Cell:
    if value is None or value != value:
        return Cell("", None)
    return Cell(shape.format(value).replace("-", "−"), value)  # noqa: RUF001 -- a minus sign


def _is_shown(output: Path, folder: Path) -> bool:
    """Tells whether a result is there, and below the folder: a page shows no other pictures."""
    try:
        return output.exists() and output.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False


def _with_pictures(
    lines: Sequence[Line], rows: Sequence[ReportRow], room: int, folder: Path
) -> tuple[list[Line], int]:
    """Adds the pictures that fit; also tells how many results have none for want of room."""
    pictured, left_out = [], 0
    for line, row in zip(lines, rows, strict=True):
        picture = ""
        if row.status in ("done", "skipped", "elsewhere") and _is_shown(row.output, folder):
            if left_out:
                left_out += 1
            else:
                picture = _thumbnail(row.output)
                room -= len(picture) + _PICTURE_MARKUP_BYTES
                if room < 0:
                    picture, left_out = "", 1
        pictured.append(replace(line, picture=picture))
    return pictured, left_out


def _thumbnail(output: Path) -> str:
    """Makes a small picture of a result as a data URI; none of one that cannot be read."""
    try:
        with open_slide(output) as slide:
            factor = max(1.0, max(slide.width, slide.height) / THUMBNAIL_SIDE)
            return data_uri(overview(slide, factor), THUMBNAIL_QUALITY)
    except (WsisrError, OSError):
        return ""
