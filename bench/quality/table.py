"""TODO-DOC"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wsisr.evaluation.measures import METRICS

SHORT = 60
"""Characters of a reason that a cell shows; all of it stands below the table."""


@dataclass(frozen=True)
class Shape:
    """Columns of a table of the paper, and how it marks figures."""

    headings: tuple[str, ...]
    """Of the columns that name a method; its label has as many parts, with / between."""
    metrics: tuple[str, ...]
    marks: tuple[str, str] = ("**{}**", "<u>{}</u>")
    """Of the best and of the second or worst."""
    marks_worst: bool = False
    transposed: bool = False
    """Metrics are rows and methods are columns."""


_FIELD = (
    "psnr", "ssim", "lpips", "st_lpips", "clip_iqa", "musiq", "niqe", "brisque", "nrqm",
)  # fmt: skip


_PATHOLOGY = ("l1_texture", "l1_intensity", "clip_iqa_boxblur", "clip_iqa_gaussian")


SHAPES = {
    2: Shape(("Methods",), _FIELD),
    3: Shape(("Methods",), _PATHOLOGY),
    4: Shape(("Iterations", "Stage 1"), _FIELD + _PATHOLOGY, ("**{}**", "*{}*"), True),
    5: Shape(("Methods",), ("uni", "plip"), transposed=True),
    6: Shape(("Iterations", "Degradation"), _FIELD, ("**{}**", "*{}*"), True),
}
"""Tables of the paper by number."""


PLAIN = Shape(("method",), (), ("{}", "{}"))


ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0"}


LABELS = {m.name: f"{m.label} {ARROWS[m.better]}" for m in METRICS}


@dataclass(frozen=True)
class Row:
    """What one method scored on one data set at one scale, over all slides or on one."""

    data: str
    method: str
    scale: int
    slide: str | None
    tiles: int
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    """{metric: why it has no value}; {"": why} where nothing ran."""
    ranked: bool = True
    """Whether it is a method that can be the best; the scan itself is none."""

    def reason(self, metric: str) -> str | None:
        """Return why there is no value of a metric; None where one was measured."""
        return self.not_run.get("", self.not_run.get(metric))


@dataclass(frozen=True)
class Quality:
    """A whole table. Rows of single slides follow that of all."""

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    """Names of measures, in order."""
    missing: Mapping[str, str]
    """{measure: why it could not run at all}, also for those that are no column."""
    conventions: Mapping[str, str]
    setting: Mapping[str, object]

    def key(self, row: Row) -> str:
        """Return the name of a row: the method's, with data set and scale where several are."""
        pooled = [r for r in self.rows if r.slide is None]
        return self._title(row) if len({r.scale for r in pooled}) > 1 else self._title(row, "")

    def _title(self, row: Row, scale: str = " x{}") -> str:
        several = len({other.data for other in self.rows}) > 1
        return f"{row.data}: " * several + row.method + scale.format(row.scale)

    def nothing(self) -> str | None:
        """Return why no row has a single value, in one line; None where one has."""
        if any(self._measured(row) for row in self.rows):
            return None
        reasons = list(dict.fromkeys(why for row in self.rows for why in self._why_not(row)))
        more = f" (and {len(reasons) - 1} more, see the table)" if len(reasons) > 1 else ""
        return reasons[0] + more

    def lacking(self, method: str | None) -> dict[str, list[str]]:
        """Return {why, in one line: data sets and scales} where a method has no value at all."""
        places: dict[str, list[str]] = {}
        for row in self.rows:
            if row.method == method and row.slide is None and not self._measured(row):
                places.setdefault(self._why_not(row)[0], []).append(f"{row.data} x{row.scale}")
        return places

    def _measured(self, row: Row) -> bool:
        return any(not math.isnan(row.values.get(name, math.nan)) for name in self.columns)

    def _why_not(self, row: Row) -> list[str]:
        reasons = (row.reason(name) for name in self.columns)
        found = [" ".join(reason.split()) for reason in reasons if reason is not None]
        return found or ["no value is a number"]

    def json(self) -> dict[str, object]:
        """Return `methods`, `not_run`, `conventions`, `setting`; asked for: intervals, slides."""
        pooled = [row for row in self.rows if row.slide is None]
        not_run = dict(self.missing)
        for row in pooled:
            name = self._title(row)
            for metric, reason in row.not_run.items():
                if metric not in self.missing:
                    not_run[f"{name}: {metric}" if metric else name] = reason
        result: dict[str, object] = {
            "methods": {self.key(row): row.values for row in pooled if "" not in row.not_run},
            "not_run": not_run,
            "conventions": self.conventions,
            "setting": self.setting,
        }
        if any(row.intervals for row in pooled):
            result["intervals"] = {self.key(row): row.intervals for row in pooled if row.intervals}
        slides: dict[str, dict[str, object]] = {}
        for row in self.rows:
            if row.slide is not None:
                slides.setdefault(self.key(row), {})[row.slide] = row.values
        return result | ({"slides": slides} if slides else {})

    def csv(self) -> str:
        """Return one line a data set, slide, method, scale and metric."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["data", "slide", "method", "scale", "metric", "value", "low", "high", "tiles",
             "not_run"]
        )  # fmt: skip
        for row in self.rows:
            where = [row.data, row.slide or "all", row.method, row.scale]
            for name in self.columns:
                value = row.values.get(name, math.nan)
                ends = row.intervals.get(name, (math.nan, math.nan))
                shown = ["" if math.isnan(v) else repr(float(v)) for v in (value, *ends)]
                writer.writerow([*where, name, *shown, row.tiles, row.reason(name) or ""])
        return text.getvalue()

    def markdown(self, shape: Shape = PLAIN) -> str:
        """Return the table, with the full reasons of what did not run below it."""
        lines = self._transposed(shape) if shape.transposed else self._upright(shape)
        reasons = {LABELS.get(name, name): why for name, why in self.missing.items()}
        if shape is PLAIN:
            reasons = dict(self.missing)
        for row in self.rows:
            for metric, why in row.not_run.items():
                if metric not in self.missing and row.slide is None:
                    title = self._title(row)
                    reasons[f"{title}: {metric}" if metric else title] = why
        notes = [f"- {name}: not run: {why}" for name, why in reasons.items()]
        if "intervals" in self.conventions and any(row.intervals for row in self.rows):
            notes.insert(0, f"In brackets: {self.conventions['intervals']}.\n")
        return "\n".join([*lines, "", *notes]).rstrip()

    def _upright(self, shape: Shape) -> list[str]:
        several = len({row.data for row in self.rows}) > 1
        slides = any(row.slide is not None for row in self.rows)
        scales = len({row.scale for row in self.rows}) > 1
        fixed = shape is not PLAIN
        named = "{} x{}" if scales and not fixed else "{}"
        names = [LABELS[name] if fixed else name for name in self.columns]
        head = ["Datasets" if fixed else "data"] * (several or fixed) + list(shape.headings)
        head += ["slide"] * slides + ["Scale"] * fixed
        lines = []
        for row in self.rows:
            name = named.format(row.method, row.scale)
            cells = [row.data] * (several or fixed) + _parts(name, len(shape.headings))
            cells += [row.slide or "all"] * slides + [f"×{row.scale}"] * fixed
            lines.append(cells + [self._cell(row, column, shape) for column in self.columns])
        return markdown_table([*head, *names], lines)

    def _transposed(self, shape: Shape) -> list[str]:
        lines: list[str] = []
        for data, scale, slide in dict.fromkeys((r.data, r.scale, r.slide) for r in self.rows):
            rows = [r for r in self.rows if (r.data, r.scale, r.slide) == (data, scale, slide)]
            title = f"{data} ×{scale}" + (f", {slide}" if slide is not None else "")
            body = [[LABELS[n], *(self._cell(r, n, shape) for r in rows)] for n in self.columns]
            lines += ["", *markdown_table([title, *(row.method for row in rows)], body)]
        return lines[1:]

    def _cell(self, row: Row, name: str, shape: Shape) -> str:
        reason = row.reason(name)
        if reason is not None:
            return f"not run: {shortened(reason)}"
        value = row.values.get(name, math.nan)
        text = cell(value)
        rank = self._rank(row, name, shape)
        if rank is not None:
            text = shape.marks[rank].format(text)
        low, high = row.intervals.get(name, (math.nan, math.nan))
        if not math.isnan(low):
            text += f" [{cell(low)}, {cell(high)}]"
        return text

    def _rank(self, row: Row, name: str, shape: Shape) -> int | None:
        """Return 0 for the best of its group, 1 for the second (or worst), None for others."""
        losses = sorted(
            {
                loss(name, other.values[name])
                for other in self.rows
                if (other.data, other.scale, other.slide) == (row.data, row.scale, row.slide)
                and not math.isnan(other.values.get(name, math.nan))
                and other.ranked
            }
        )
        own = row.values.get(name, math.nan)
        if len(losses) < 2 or math.isnan(own) or not row.ranked:
            return None
        if loss(name, own) == losses[0]:
            return 0
        return 1 if loss(name, own) == losses[-1 if shape.marks_worst else 1] else None


def loss(name: str, value: float) -> float:
    """Return what is smaller the better a measure's value is."""
    better = next((m.better for m in METRICS if m.name == name), "higher")
    return {"higher": -value, "lower": value, "zero": abs(value)}[better]


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; a | within a cell is escaped."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *lines)]
    shown = ["| " + " | ".join(row) + " |" for row in rows]
    return [shown[0], "|---" * len(head) + "|", *shown[1:]]


def shortened(reason: str) -> str:
    """Return what a cell has room for: the first clause of a reason."""
    clauses = reason.replace("\n", " ").split("; ")[0].split(": ")
    # an option or file in front only repeats what the row says already
    first = next((c for c in clauses if not c.startswith(("-", "/", "."))), clauses[0])
    return first if len(first) <= SHORT else first[: SHORT - 1].rstrip() + "…"


def _parts(label: str, count: int) -> list[str]:
    if count == 1:
        return [label]
    parts = label.split("/", count - 1)
    return parts + [""] * (count - len(parts))


def cell(value: float) -> str:
    """Return a figure as tables show it; a dash for none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
