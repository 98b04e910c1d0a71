"""Makes the rows of the quality table from the figures of tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.quality.measure import Measured, Setup
from bench.quality.plan import Plan
from bench.quality.results import QualityTable, Row
from wsisr.evaluation import BOOTSTRAP_DRAWS, bootstrap, draw_means, interval
from wsisr.evaluation.measures import metric_conventions, summarize
from wsisr.evaluation.report import TileResult

SEED = 0
"""Seed of the draws of the bootstrap."""


@dataclass
class Draws:
    """What was drawn for intervals: {unit (slides, tiles): labels of the data sets}."""

    by_unit: dict[str, list[str]] = field(default_factory=dict)

    def add(self, unit: str, data: str) -> None:
        """Notes that a data set's intervals are over a unit."""
        labels = self.by_unit.setdefault(unit, [])
        if data not in labels:
            labels.append(data)

    def describe(self) -> str:
        """Returns the convention of the intervals in one line."""
        over = "; ".join(f"{unit} of {', '.join(labels)}" for unit, labels in self.by_unit.items())
        return f"95 % percentile bootstrap over {over or 'nothing'}; {BOOTSTRAP_DRAWS} draws"


def make_table(
    plan: Plan,
    setup: Setup,
    measured: Sequence[Measured],
    *,
    intervals: bool = False,
    per_slide: bool = False,
) -> QualityTable:
    """Makes the table of what was measured.

    Args:
        plan: what was to be measured.
        setup: what it was measured with.
        measured: what was measured.
        intervals: whether methods get 95 % intervals.
        per_slide: whether each slide gets a row as well.
    """
    draws = Draws()
    rows: list[Row] = []
    for data in plan.data:
        for scale in plan.scales:
            here = [m for m in measured if (m.data, m.scale) == (data.label, scale)]
            for each in here:
                rows.append(_pooled(each, draws, intervals))
                rows += _slides(each) if per_slide else []
            rows += _differences(here, plan, draws)
    described = {**metric_conventions(plan.metrics), "nuclei": setup.segmenter.convention}
    if intervals or plan.against is not None:
        described["intervals"] = draws.describe()
    setting = _setting(plan, setup)
    return QualityTable(tuple(rows), plan.columns, plan.not_run, described, setting)


def _setting(plan: Plan, setup: Setup) -> dict[str, object]:
    setting: dict[str, object] = {
        "tiles": ", ".join(str(item.folder) for item in plan.data),
        "count": sum(map(len, plan.tiles.values())),
        "scales": list(plan.scales),
        "methods": {item.label: item.target for item in plan.methods},
        "precision": setup.precision or "that of `wsisr upscale` on this machine",
    }
    return setting | ({} if plan.slides is None else {"slides": list(plan.slides)})


def _means(tiles: Sequence[TileResult], method: str) -> dict[str, float]:
    return summarize([tile.values[method] for tile in tiles])


def _row(
    measured: Measured,
    slide: str | None,
    tiles: Sequence[TileResult],
    ends: Mapping[str, tuple[float, float]],
) -> Row:
    not_run = measured.not_run
    means = _means(tiles, measured.method.label)
    return Row(
        measured.data,
        measured.method.label,
        measured.scale,
        slide,
        len(tiles),
        {name: value for name, value in means.items() if name not in not_run},
        {name: pair for name, pair in ends.items() if name not in not_run},
        not_run,
        not measured.method.is_scan,
    )


def _pooled(measured: Measured, draws: Draws, intervals: bool) -> Row:
    """Makes the row over all slides."""
    ends: Mapping[str, tuple[float, float]] = {}
    if intervals and measured.tiles:
        label = measured.method.label
        found, unit = bootstrap(measured.tiles, [label], SEED)
        ends = found[label]
        draws.add(unit, measured.data)
    return _row(measured, None, measured.tiles, ends)


def _slides(measured: Measured) -> list[Row]:
    """Makes a row for each slide."""
    by_slide: dict[str, list[TileResult]] = {}
    for tile in measured.tiles:
        by_slide.setdefault(tile.location.group, []).append(tile)
    return [_row(measured, slide, by_slide[slide], {}) for slide in sorted(by_slide)]


def _differences(here: Sequence[Measured], plan: Plan, draws: Draws) -> list[Row]:
    """Makes the rows of the differences to one method, of one data set at one scale."""
    done = [measured for measured in here if measured.tiles]
    reference = next((m for m in done if m.method.label == plan.against), None)
    if reference is None:
        return []
    others = [measured for measured in done if measured is not reference]
    return [_difference(measured, reference, plan.not_run, draws) for measured in others]


def _difference(
    measured: Measured, reference: Measured, not_run: Mapping[str, str], draws: Draws
) -> Row:
    """Makes the row `LABEL - AGAINST`, whose values are the differences of the methods' means.

    The intervals are those of the difference, both measured on the same draws: what is hard about
    a slide is so for both and drops out, so they tell more than whether the methods' own intervals
    overlap.
    """
    label, against = measured.method.label, reference.method.label
    pairs = zip(measured.tiles, reference.tiles, strict=True)
    both = [TileResult(one.location, {**one.values, **other.values}) for one, other in pairs]
    means, unit = draw_means(both, [label, against], SEED)
    draws.add(unit, measured.data)
    own, others = _means(both, label), _means(both, against)
    names = [name for name in own if name in others and name not in not_run]
    return Row(
        measured.data,
        f"{label} - {against}",
        measured.scale,
        None,
        len(both),
        {name: own[name] - others[name] for name in names},
        {name: interval(means[label][name] - means[against][name]) for name in names},
        not_run,
        ranked=False,
    )
