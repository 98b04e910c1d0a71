"""Holds the quality table as data and gives it as JSON and CSV."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from wsisr.sharing import to_csv


@dataclass(frozen=True)
class Row:
    """What one method scored on one data set at one scale, over all slides or on one.

    Attributes:
        data: label of the data set.
        method: label of the method, or of a difference of two.
        scale: the scale.
        slide: name of the slide, None for all of them together.
        tiles: how many tiles were measured.
        values: {measure: mean over the tiles}.
        intervals: {measure: ends of the 95 % interval}.
        not_run: {measure: why it has no value}; {"": why} where nothing ran.
        ranked: whether it is a method that can be the best; the scan itself is none.
    """

    data: str
    method: str
    scale: int
    slide: str | None
    tiles: int
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    ranked: bool = True

    def reason(self, metric: str) -> str | None:
        """Returns why there is no value of a measure; None where one was measured."""
        return self.not_run.get("", self.not_run.get(metric))

    def value(self, metric: str) -> float:
        """Returns the value of a measure; NaN where there is none."""
        return self.values.get(metric, math.nan)


@dataclass(frozen=True)
class QualityTable:
    """A whole table.

    Attributes:
        rows: the rows; those of single slides follow that of all.
        columns: names of measures, in order.
        missing: {measure: why it could not run at all}, also for those that are no column.
        conventions: {measure: how it is defined}, and what holds for all of them.
        setting: what was measured.
    """

    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    missing: Mapping[str, str]
    conventions: Mapping[str, str]
    setting: Mapping[str, object]

    @property
    def pooled(self) -> list[Row]:
        """Returns the rows over all slides."""
        return [row for row in self.rows if row.slide is None]

    @property
    def has_several_data_sets(self) -> bool:
        """Tells whether a row's name needs its data set."""
        return len({row.data for row in self.rows}) > 1

    def key(self, row: Row) -> str:
        """Returns the name of a row: the method's, with data set and scale where several are."""
        several = len({other.scale for other in self.pooled}) > 1
        return self.title(row) if several else self.title(row, "")

    def title(self, row: Row, scale: str = " x{}") -> str:
        """Returns the method of a row, with the data set where several are, and the scale."""
        return f"{row.data}: " * self.has_several_data_sets + row.method + scale.format(row.scale)

    def why_empty(self) -> str | None:
        """Returns why no row has a single value, in one line; None where one has."""
        if any(self._is_measured(row) for row in self.rows):
            return None
        reasons = list(dict.fromkeys(why for row in self.rows for why in self._reasons(row)))
        more = f" (and {len(reasons) - 1} more, see the table)" if len(reasons) > 1 else ""
        return reasons[0] + more

    def why_lacking(self, method: str | None) -> dict[str, list[str]]:
        """Returns {why, in one line: data sets and scales} where a method has no value at all."""
        found: dict[str, list[str]] = {}
        for row in self.pooled:
            if row.method == method and not self._is_measured(row):
                found.setdefault(self._reasons(row)[0], []).append(f"{row.data} x{row.scale}")
        return found

    def _is_measured(self, row: Row) -> bool:
        return any(not math.isnan(row.value(name)) for name in self.columns)

    def _reasons(self, row: Row) -> list[str]:
        reasons = (row.reason(name) for name in self.columns)
        found = [" ".join(reason.split()) for reason in reasons if reason is not None]
        return found or ["no value is a number"]

    def reasons_of_rows(self) -> dict[str, str]:
        """Returns {row, or row and measure: why there is no value}, beside what is `missing`."""
        reasons = {}
        for row in self.pooled:
            title = self.title(row)
            for metric, reason in row.not_run.items():
                if metric not in self.missing:
                    reasons[f"{title}: {metric}" if metric else title] = reason
        return reasons

    def json(self) -> dict[str, object]:
        """Returns `methods`, `not_run`, `conventions`, `setting`; asked for: intervals, slides."""
        pooled = self.pooled
        result: dict[str, object] = {
            "methods": {self.key(row): row.values for row in pooled if "" not in row.not_run},
            "not_run": {**self.missing, **self.reasons_of_rows()},
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
        """Returns one line a data set, slide, method, scale and measure."""
        head = ("data", "slide", "method", "scale", "metric", "value", "low", "high", "tiles")
        lines: list[list[object]] = [[*head, "not_run"]]
        for row in self.rows:
            where = [row.data, row.slide or "all", row.method, row.scale]
            for name in self.columns:
                ends = row.intervals.get(name, (math.nan, math.nan))
                figures = (row.value(name), *ends)
                shown = ["" if math.isnan(v) else float(v) for v in figures]
                lines.append([*where, name, *shown, row.tiles, row.reason(name) or ""])
        return to_csv(lines)
