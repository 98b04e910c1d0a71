"""The report as one HTML page that needs no network.

What the page says is laid out here as plain data; `report.html.j2` beside this file holds its
words and its markup, and escapes every value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsisr.evaluation.measures import Metric
from wsisr.evaluation.nuclei import FOLDER, INVENTED, LOST, MATCH_IOU, OVERLAP_IOU, Segmenter
from wsisr.evaluation.pairing import PairSource
from wsisr.evaluation.report import pictures
from wsisr.evaluation.report.page import page_template
from wsisr.evaluation.report.plot import Plot, perception_distortion
from wsisr.evaluation.report.results import Evaluation, TileResult
from wsisr.resize import shrink_within

WORST_TILES = 10
WORST_BY = ("nuclei_pq", "ssim", "lr_rmse", "niqe", "brisque")
"""The first of these that ran ranks the tiles."""
CAPTIONED = ("psnr", "ssim", "nuclei_precision", "nuclei_recall", "hf_db", "lr_rmse")
"""Measures in the caption of a tile."""
MAP_SIDE = 540
PERCEPTION = ("niqe", "brisque", "hf_db")
NOTICE = (
    "Super-resolved pixels are computer-generated. This report is for research and quality "
    "control, not for primary diagnosis."
)
MINUS = "−"  # noqa: RUF001 -- a hyphen is too short beside figures
ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
GROUPS = {
    "True to the scan, pixel by pixel": ("psnr", "ssim", "ms_ssim", "lr_rmse"),
    "Nuclei": (
        "nuclei_recall", "nuclei_precision", "nuclei_pq", "nuclei_count_difference",
        "nuclei_area_difference", "l1_texture", "l1_intensity",
    ),
    "Stain, blur and grids": ("hed_shift", "hf_db", "comb_db", "comb_level_db", "mesh_share"),
}  # fmt: skip
"""Rows of the summary under headings; other measures stand under a heading of their own."""

Labels = Mapping[str, Metric]
"""{name: measure} of what ran, in the order of the page."""


@dataclass(frozen=True)
class Card:
    """One of the answers a reader looks for first: a figure and what it means."""

    figure: str
    text: str


@dataclass(frozen=True)
class Cell:
    """A mean of the summary and its interval; `best` where no method of its row is better."""

    value: str
    interval: str
    best: bool


@dataclass(frozen=True)
class Row:
    """A measure of the summary, with a cell for each method."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Group:
    """Rows of the summary under one heading."""

    title: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class Strip:
    """A tile's pictures side by side, as a data URI, and what it measured."""

    name: str
    panels: Sequence[str]
    image: str
    values: str


@dataclass(frozen=True)
class Worst:
    """The worst tiles by a measure."""

    by: str
    figures: Sequence[Strip]


@dataclass(frozen=True)
class Heatmap:
    """A measure on the slide, as a data URI, and the ends of its colours."""

    name: str
    title: str
    image: str
    low: str
    high: str


def to_html(
    evaluation: Evaluation, pairs: PairSource, chosen: Sequence[Metric], segmenter: Segmenter
) -> str:
    """Makes the page; pictures stand inside it as data URIs.

    Args:
        evaluation: the figures.
        pairs: gives the pixels that pictures show.
        chosen: the measures that ran, in the order of the page.
        segmenter: what found the nuclei whose outlines pictures show.

    Returns:
        The page as text.
    """
    labels = {metric.name: metric for metric in chosen}
    method = next(iter(evaluation.methods))
    return page_template("wsisr.evaluation", "report", "report.html.j2").render(
        notice=NOTICE,
        title=Path(evaluation.inputs["sr"]).name,
        question="is it true to the real scan?" if "hr" in evaluation.inputs else "judged alone",
        method=method,
        methods=list(evaluation.methods),
        several=len(evaluation.methods.keys() - {"bicubic"}) > 1,
        cards=list(_cards(evaluation)),
        unmatched=evaluation.unmatched.get(method),
        match_iou=MATCH_IOU,
        overlap_iou=OVERLAP_IOU,
        invented_colour=INVENTED,
        lost_colour=LOST,
        folder=FOLDER,
        groups=list(_groups(evaluation, labels)),
        intervals=evaluation.conventions["intervals"],
        worst=_worst(evaluation, pairs, labels, segmenter),
        maps=_heatmaps(evaluation, pairs, labels),
        plot=_plot(evaluation, labels),
        inputs=_inputs(evaluation),
        not_run=evaluation.not_run,
        conventions=evaluation.conventions,
        versions=", ".join(f"{name} {number}" for name, number in evaluation.versions.items()),
    )


def _cards(evaluation: Evaluation) -> Iterator[Card]:
    values = evaluation.methods[next(iter(evaluation.methods))]
    answers = (
        ("nuclei_recall", "of the scan's nuclei have no match in the result", _unmatched),
        ("nuclei_precision", "of the result's nuclei have no match in the scan", _unmatched),
        ("hf_db", "of fine detail against the scan; below 0 is blur", _decibels),
        ("lr_rmse", "grey levels away from the low-resolution input (RMSE)", "{:.2f}".format),
    )
    for name, text, show in answers:
        if math.isfinite(values.get(name, math.nan)):
            yield Card(show(values[name]), text)
    if evaluation.alignment is not None:
        yield Card(f"{evaluation.alignment.residual_px:.2f} px", "left over by registration")


def _unmatched(share: float) -> str:
    return f"{100 * (1 - share):.1f} %"


def _decibels(value: float) -> str:
    return f"{value:+.1f} dB".replace("-", MINUS)


def _inputs(evaluation: Evaluation) -> list[tuple[str, str]]:
    rows = list(evaluation.inputs.items())
    for label, found in evaluation.also_alignments.items():
        rows.append((f"{label} by SR's registration", f"residual {found.residual_px:.3f} px"))
    rows.append(("pixel size of SR", f"{evaluation.mpp:g} µm/px"))
    rows.append(("tiles judged", str(len(evaluation.tiles))))
    if evaluation.failed:
        failures = "; ".join(f"{name}: {why}" for name, why in evaluation.failed.items())
        rows.append(("tiles that could not be read", failures))
    alignment = evaluation.alignment
    if alignment is not None:
        rows.append(
            (
                "registration",
                f"median residual {alignment.residual_px:.3f} px, 95th percentile "
                f"{alignment.residual_p95_px:.3f} px, {alignment.windows} windows, "
                f"{alignment.inliers} matched features",
            )
        )
    return rows


def _groups(evaluation: Evaluation, labels: Labels) -> Iterator[Group]:
    shown = [n for n in labels if any(n in values for values in evaluation.methods.values())]
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "Perception": tuple(name for name in shown if name not in grouped)}
    for title, names in groups.items():
        rows = [_row(evaluation, labels[name]) for name in names if name in shown]
        if rows:
            yield Group(title, rows)


def _row(evaluation: Evaluation, metric: Metric) -> Row:
    best = _best(evaluation, metric)
    cells = [
        _cell(evaluation, method, metric.name, method in best) for method in evaluation.methods
    ]
    return Row(_titled(metric), cells)


def _titled(metric: Metric) -> str:
    """Gives a measure's label with the direction that is better."""
    return f"{metric.label} {ARROWS[metric.better]}"


def _best(evaluation: Evaluation, metric: Metric) -> set[str]:
    """Gives the methods that are best at a measure; none where there is nothing to compare."""
    sign = {"higher": 1.0, "lower": -1.0, "zero": -1.0}[metric.better]
    values = {
        method: sign * (abs(found[metric.name]) if metric.better == "zero" else found[metric.name])
        for method, found in evaluation.methods.items()
        if not math.isnan(found.get(metric.name, math.nan))
    }
    if len(values) < 2:
        return set()
    return {method for method, value in values.items() if value == max(values.values())}


def _cell(evaluation: Evaluation, method: str, name: str, best: bool) -> Cell:
    value = evaluation.methods[method].get(name, math.nan)
    if math.isnan(value):
        return Cell("–", "", best)
    low, high = evaluation.intervals[method][name]
    undefined = evaluation.undefined[method].get(name, 0)
    note = f"; {undefined} tiles without a value" if undefined else ""
    return Cell(_number(value), f"{_number(low)} to {_number(high)}{note}", best)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}").replace("-", MINUS)


def _plot(evaluation: Evaluation, labels: Labels) -> Plot | None:
    measured = {name for values in evaluation.methods.values() for name in values}
    perception = next((name for name in PERCEPTION if name in measured), None)
    if perception is None or "psnr" not in measured:
        return None
    points = {
        method: (values.get("psnr", math.nan), abs(values.get(perception, math.nan)))
        for method, values in evaluation.methods.items()
    }
    label = labels[perception].label
    name = f"distance from 0 of {label}" if labels[perception].better == "zero" else label
    return perception_distortion(
        points, "PSNR (dB): right is closer to the scan", f"{name}: lower looks more real"
    )


def _heatmaps(evaluation: Evaluation, pairs: PairSource, labels: Labels) -> list[Heatmap] | None:
    if pairs.thumbnail is None or pairs.size is None:
        return None
    method = next(iter(evaluation.methods))
    locations = [tile.location for tile in evaluation.tiles]
    found = []
    for name, metric in labels.items():
        values = [_value(tile, method, name) for tile in evaluation.tiles]
        if any(math.isfinite(value) for value in values):
            image, low, high = pictures.heatmap(pairs.thumbnail, pairs.size, locations, values)
            uri = pictures.data_uri(shrink_within(image, MAP_SIDE))
            found.append(Heatmap(name, _titled(metric), uri, _number(low), _number(high)))
    return found


def _worst(
    evaluation: Evaluation, pairs: PairSource, labels: Labels, segmenter: Segmenter
) -> Worst | None:
    method = next(iter(evaluation.methods))
    ranking = next((name for name in WORST_BY if name in evaluation.methods[method]), None)
    if ranking is None:
        return None
    sign = 1.0 if labels[ranking].better == "higher" else -1.0
    ranked = [
        (sign * _value(tile, method, ranking), index, tile)
        for index, tile in enumerate(evaluation.tiles)
        if math.isfinite(_value(tile, method, ranking))
    ]
    figures = []
    for _, _, tile in sorted(ranked)[:WORST_TILES]:
        images = pairs.load(tile.location)
        image, panels = pictures.strip(images, pairs.mpp, segmenter, method)
        shown = ", ".join(
            f"{labels[name].label} {_number(_value(tile, method, name))}"
            for name in CAPTIONED
            if math.isfinite(_value(tile, method, name))
        )
        figures.append(Strip(tile.location.name, panels, pictures.data_uri(image), shown))
    return Worst(labels[ranking].label, figures)


def _value(tile: TileResult, method: str, name: str) -> float:
    item = tile.values.get(method, {}).get(name)
    return math.nan if item is None else item.value
