"""Shows the quality table in Markdown, as it is or in the shape of one of the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.quality.results import QualityTable, Row
from wsisr.evaluation.measures import METRICS as ALL_METRICS

SHORT = 60
"""Characters of a reason that a cell shows; all of it stands below the table."""
ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0"}
METRICS = {metric.name: metric for metric in ALL_METRICS}
LABELS = {name: f"{metric.label} {ARROWS[metric.better]}" for name, metric in METRICS.items()}


@dataclass(frozen=True)
class Layout:
    """Columns of a table of the paper, and how it marks figures.

    Attributes:
        headings: of the columns that name a method; its label has as many parts, with / between.
        metrics: the measures, in order; empty for those that were asked for.
        marks: how the best figure is marked, and the second or worst.
        marks_worst: whether the worst figure is marked in place of the second.
        transposed: whether measures are rows and methods are columns.
    """

    headings: tuple[str, ...]
    metrics: tuple[str, ...]
    marks: tuple[str, str] = ("**{}**", "<u>{}</u>")
    marks_worst: bool = False
    transposed: bool = False


_FIELD = (
    "psnr", "ssim", "lpips", "st_lpips", "clip_iqa", "musiq", "niqe", "brisque", "nrqm",
)  # fmt: skip
_PATHOLOGY = ("l1_texture", "l1_intensity", "clip_iqa_boxblur", "clip_iqa_gaussian")
PLAIN = Layout(("method",), (), ("{}", "{}"))
LAYOUTS = {
    2: Layout(("Methods",), _FIELD),
    3: Layout(("Methods",), _PATHOLOGY),
    4: Layout(("Iterations", "Stage 1"), _FIELD + _PATHOLOGY, ("**{}**", "*{}*"), True),
    5: Layout(("Methods",), ("uni", "plip"), transposed=True),
    6: Layout(("Iterations", "Degradation"), _FIELD, ("**{}**", "*{}*"), True),
}
"""Tables of the paper by number."""


def to_markdown(table: QualityTable, layout: Layout = PLAIN) -> str:
    """Returns a table in Markdown, with the full reasons of what did not run below it."""
    lines = _transposed(table, layout) if layout.transposed else _upright(table, layout)
    is_plain = layout is PLAIN
    missing = {n if is_plain else LABELS.get(n, n): why for n, why in table.missing.items()}
    reasons = {**missing, **table.reasons_of_rows()}
    notes = [f"- {name}: not run: {why}" for name, why in reasons.items()]
    if "intervals" in table.conventions and any(row.intervals for row in table.rows):
        notes.insert(0, f"In brackets: {table.conventions['intervals']}.\n")
    return "\n".join([*lines, "", *notes]).rstrip()


def _upright(table: QualityTable, layout: Layout) -> list[str]:
    """Returns the lines of a table whose rows are methods."""
    is_paper = layout is not PLAIN
    has_data = is_paper or table.has_several_data_sets
    has_slides = any(row.slide is not None for row in table.rows)
    has_scales = len({row.scale for row in table.rows}) > 1 and not is_paper
    names = [LABELS[name] if is_paper else name for name in table.columns]
    head = ["Datasets" if is_paper else "data"] * has_data + list(layout.headings)
    head += ["slide"] * has_slides + ["Scale"] * is_paper
    lines = []
    for row in table.rows:
        name = f"{row.method} x{row.scale}" if has_scales else row.method
        cells = [row.data] * has_data + _parts(name, len(layout.headings))
        cells += [row.slide or "all"] * has_slides + [f"×{row.scale}"] * is_paper
        lines.append(cells + [_cell(table, row, column, layout) for column in table.columns])
    return markdown_table([*head, *names], lines)


def _transposed(table: QualityTable, layout: Layout) -> list[str]:
    """Returns the lines of tables whose columns are methods, one for each scale and slide."""
    lines: list[str] = []
    for data, scale, slide in dict.fromkeys((r.data, r.scale, r.slide) for r in table.rows):
        rows = [r for r in table.rows if (r.data, r.scale, r.slide) == (data, scale, slide)]
        title = f"{data} ×{scale}" + (f", {slide}" if slide is not None else "")
        body = [
            [LABELS[name], *(_cell(table, row, name, layout) for row in rows)]
            for name in table.columns
        ]
        lines += ["", *markdown_table([title, *(row.method for row in rows)], body)]
    return lines[1:]


def _cell(table: QualityTable, row: Row, name: str, layout: Layout) -> str:
    reason = row.reason(name)
    if reason is not None:
        return f"not run: {shortened(reason)}"
    text = format_figure(row.value(name))
    rank = _rank(table, row, name, layout)
    if rank is not None:
        text = layout.marks[rank].format(text)
    low, high = row.intervals.get(name, (math.nan, math.nan))
    if not math.isnan(low):
        text += f" [{format_figure(low)}, {format_figure(high)}]"
    return text


def _rank(table: QualityTable, row: Row, name: str, layout: Layout) -> int | None:
    """Returns 0 for the best of its group, 1 for the second (or worst), None for others."""
    losses = sorted(
        {
            loss(name, other.value(name))
            for other in table.rows
            if (other.data, other.scale, other.slide) == (row.data, row.scale, row.slide)
            and not math.isnan(other.value(name))
            and other.ranked
        }
    )
    own = row.value(name)
    if len(losses) < 2 or math.isnan(own) or not row.ranked:
        return None
    if loss(name, own) == losses[0]:
        return 0
    return 1 if loss(name, own) == losses[-1 if layout.marks_worst else 1] else None


def loss(name: str, value: float) -> float:
    """Returns what is smaller the better a measure's value is."""
    better = METRICS[name].better if name in METRICS else "higher"
    return {"higher": -value, "lower": value, "zero": abs(value)}[better]


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table; a | within a cell is escaped."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *lines)]
    shown = ["| " + " | ".join(row) + " |" for row in rows]
    return [shown[0], "|---" * len(head) + "|", *shown[1:]]


def shortened(reason: str) -> str:
    """Returns what a cell has room for: the first clause of a reason."""
    clauses = reason.replace("\n", " ").split("; ")[0].split(": ")
    # an option or file in front only repeats what the row says already
    first = next((c for c in clauses if not c.startswith(("-", "/", "."))), clauses[0])
    return first if len(first) <= SHORT else first[: SHORT - 1].rstrip() + "…"


def _parts(label: str, count: int) -> list[str]:
    if count == 1:
        return [label]
    parts = label.split("/", count - 1)
    return parts + [""] * (count - len(parts))


def format_figure(value: float) -> str:
    """Returns a figure as tables show it; a dash for none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"
