"""Quality tables: methods x metrics on folders of real tiles, also in the shapes of the paper's.

    python -m bench.quality --tiles tiles/val --scales 4,8 --methods bicubic,tiny,restore
    python -m bench.quality --table 2 --tiles PRAD-100=prad LUAD-100=luad GBM-100=gbm@0.5 \
        --methods Bicubic=bicubic Real-ESRGAN=RealESRGAN_x4plus.pth Ours=runs/mine/model \
        --intervals --per-slide --markdown table2.md --csv table2.csv

Each tile is area-averaged by the scale to its LR input, upscaled by every method and measured
against the tile itself. `--tiles` takes FOLDER or LABEL=FOLDER, with @MPP behind it where a pixel
is not 0.25 um; sub-folders are slides. A method is LABEL=WHAT or WHAT alone: `bicubic`, `hr` (the
tile itself: what a perfect result would score), a folder of ready PNG files (named like the tiles;
with several data sets or scales in sub-folders LABEL, `x4`, LABEL/`x4`), or any model name, folder
or file that wsisr knows. What cannot run stays in the table and says why. `--against plain` adds
lines `tiny - plain`: the difference of the two with its own 95 % interval; one that holds 0 may be
chance.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from wsisr.errors import OutputError, UsageError, WsisrError
from wsisr.evaluation import metrics, segmenters
from wsisr.evaluation.evaluate import BOOTSTRAP_DRAWS, bootstrap, draw_means, interval
from wsisr.evaluation.fidelity import area_downsample, bicubic_upsample
from wsisr.evaluation.metrics import Measurement, Metric
from wsisr.evaluation.nuclei import ClassicalSegmenter, Segmenter
from wsisr.evaluation.pixels import Image
from wsisr.evaluation.results import TileResult
from wsisr.evaluation.sources import Place, read_image

TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MPP = 0.25
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
LABELS = {m.name: f"{m.label} {ARROWS[m.better]}" for m in metrics.all_metrics()}


@dataclass(frozen=True)
class DataSet:
    """A folder of real tiles and their pixel size, um."""

    label: str
    folder: Path
    mpp: float = MPP


@dataclass(frozen=True)
class Contender:
    """A method's name in the table, and what it is (see the module's text)."""

    label: str
    target: str


Method = Callable[[Image, int, DataSet, Path], Image]
"""Takes the LR tile, the scale, and the data set and file of the HR tile; returns the SR tile."""


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
    better = next((m.better for m in metrics.all_metrics() if m.name == name), "higher")
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


def list_tiles(folder: Path, limit: int | None = None) -> list[Path]:
    """Return the image files under `folder`, sorted; with `limit`, that many spread evenly."""
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be 1 or more")
    if not folder.is_dir():
        raise UsageError(f"--tiles {folder} is not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in TILE_SUFFIXES)
    if not found:
        raise UsageError(f"--tiles {folder} holds no image files {TILE_SUFFIXES}")
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def data_set(text: str) -> DataSet:
    """Return what [LABEL=]FOLDER[@MPP] names."""
    label, path = _labelled(text)
    mpp = MPP
    head, at, tail = path.rpartition("@")
    if at and not Path(path).exists():
        try:
            mpp = float(tail)
        except ValueError:
            raise UsageError(f"--tiles {text}: {tail!r} is no pixel size in um") from None
        if not 0 < mpp <= 2:
            raise UsageError(f"--tiles {text}: a pixel size is over 0 and at most 2 um")
        path = head
    return DataSet(label or Path(path).name or path, Path(path), mpp)


def contender(text: str) -> Contender:
    """Return what [LABEL=]WHAT names."""
    label, target = _labelled(text)
    if not target:
        raise UsageError(f"--methods {text!r}: a method is NAME or LABEL=NAME")
    return Contender(label or target, target)


def _labelled(text: str) -> tuple[str, str]:
    if Path(text).exists() or "=" not in text:
        return "", text
    label, _, rest = text.partition("=")
    return label.strip(), rest


def resolve_method(
    target: str, device: str, precision: str | None = None, scale: float | None = None
) -> Method:
    """Return the upscaling function of a method; see the module's text for names.

    `precision` is of a model's networks, None what `wsisr upscale` takes on this machine; `scale`
    the one that it will be used at. Raises `ModelError` for a model that is not there or broken.
    """
    if target == "bicubic":
        return lambda lr, scale, *_: bicubic_upsample(lr, scale)
    if target == "hr":
        return lambda lr, scale, data, path: read_image(path)
    if is_ready(target):
        root = Path(target)
        return lambda lr, scale, data, path: read_image(_ready_file(root, scale, data, path))
    # torch and diffusers take seconds to import: pixel baselines do without
    from wsisr.engine import upscale_array
    from wsisr.models import load_upscaler

    settings = {"precision": precision} if precision else {}
    model = load_upscaler(target, device=device, settings=settings, scale=scale)
    return lambda lr, scale, *_: upscale_array(lr, scale, model=model)


def is_ready(target: str) -> bool:
    """Return whether a method is a folder of results, not a model."""
    return Path(target).is_dir() and not (Path(target) / "model.json").exists()


def _ready_file(root: Path, scale: int, data: DataSet, path: Path) -> Path:
    relative = path.relative_to(data.folder).with_suffix(".png")
    roots = (root / data.label / f"x{scale}", root / data.label, root / f"x{scale}", root)
    folder = next(place for place in roots if place.is_dir())
    for candidate in (folder / relative, folder / relative.name):
        if candidate.exists():
            return candidate
    raise UsageError(f"{folder} has no {relative}, the result for tile {path.name}")


def measure(
    tiles: Sequence[Path],
    data: DataSet,
    scale: int,
    contender: Contender,
    method: Method,
    chosen: Sequence[Metric],
    segmenter: Segmenter,
    show_progress: bool = True,
) -> tuple[list[TileResult], dict[str, str]]:
    """Return each tile's measurements, and {metric: why} where tiles do not suit a metric."""
    results: list[TileResult] = []
    refused: dict[str, str] = {}
    title = f"{data.label} {contender.label} x{scale}"
    for path in tqdm(tiles, desc=title, unit="tile", disable=not show_progress):
        hr = read_image(path)
        height, width = (side // scale * scale for side in hr.shape[:2])
        hr = np.ascontiguousarray(hr[:height, :width])
        lr = area_downsample(hr, scale)
        sr = method(lr, scale, data, path)
        if sr.shape != hr.shape:
            sr = np.ascontiguousarray(sr[:height, :width])
        sample = metrics.Sample(sr, metrics.Scan(hr, data.mpp, segmenter), lr)
        values: dict[str, Measurement] = {}
        for metric in chosen:
            if metric.name not in refused:
                try:
                    values |= metrics.measure_tile(sample, [metric])
                except UsageError as error:
                    refused[metric.name] = str(error)
        relative = path.relative_to(data.folder)
        place = Place(relative.as_posix(), relative.parent.as_posix(), 0, 0, width, height)
        results.append(TileResult(place, {contender.label: values}))
    return results, refused


def run(
    data: Sequence[DataSet],
    scales: Sequence[int],
    contenders: Sequence[Contender],
    limit: int | None = None,
    device: str = "cpu",
    only: Sequence[str] | None = None,
    *,
    precision: str | None = None,
    intervals: bool = False,
    per_slide: bool = False,
    against: str | None = None,
    segmenter: Segmenter | None = None,
    show_progress: bool = True,
) -> Quality:
    """Return the table of every method on every data set at every scale.

    One model is in memory at a time. `only` picks measures by name, None all that can run.
    `against` is the label of a method that the others are compared with, see `_difference`.

    Raises:
        UsageError: no tiles, unknown measures, names that stand twice or are none, a device that
            cannot be used, or results that a folder of ready files lacks.
    """
    if device != "cpu":
        # only then: torch takes seconds to import, and pixel baselines do without
        from wsisr.models import pick_device

        pick_device(device)
    _refuse_doubles("--tiles", [item.label for item in data])
    _refuse_doubles("--methods", [item.label for item in contenders])
    if against is not None and against not in [item.label for item in contenders]:
        raise UsageError(f"--against {against}: none of --methods; give the name of one of them")
    segmenter = segmenter or ClassicalSegmenter()
    tiles = {item.label: list_tiles(item.folder, limit) for item in data}
    chosen, missing = metrics.available(only or ["all"])
    for item in contenders:
        if item.target not in ("bicubic", "hr") and is_ready(item.target):
            for each in data:
                for scale in scales:
                    for path in tiles[each.label]:
                        _ready_file(Path(item.target), scale, each, path)
    rows: list[Row] = []
    drawn: dict[str, list[str]] = {}
    measured: dict[tuple[str, int], dict[str, list[TileResult]]] = {}
    for item in contenders:
        for scale in scales:
            broken: dict[str, str] = {}
            try:
                method = resolve_method(item.target, device, precision, scale)
            except WsisrError as error:
                broken[""] = str(error)
            for each in data:
                where = (each.label, scale)
                found: list[TileResult] = []
                refused: dict[str, str] = dict(broken)
                if not broken:
                    try:
                        found, refused = measure(
                            tiles[each.label], each, scale, item, method, chosen, segmenter,
                            show_progress,
                        )  # fmt: skip
                    except WsisrError as error:
                        refused = {"": str(error)}
                made, unit = _rows(item, where, found, missing | refused, intervals, per_slide)
                rows += made
                if found:
                    measured.setdefault(where, {})[item.label] = found
                if unit is not None and each.label not in drawn.setdefault(unit, []):
                    drawn[unit].append(each.label)
    for where, by_method in measured.items():
        for label in by_method:
            if against in by_method and label != against:
                row, unit = _difference(where, by_method, label, against, missing)
                rows.append(row)
                if where[0] not in drawn.setdefault(unit, []):
                    drawn[unit].append(where[0])
    order = {item.label: n for n, item in enumerate(data)}
    rows.sort(key=lambda row: (order[row.data], scales.index(row.scale)))
    conventions = {**metrics.conventions(chosen), "nuclei": segmenter.convention}
    if intervals or against is not None:
        over = "; ".join(f"{unit} of {', '.join(labels)}" for unit, labels in drawn.items())
        conventions["intervals"] = (
            f"95 % percentile bootstrap over {over or 'nothing'}; {BOOTSTRAP_DRAWS} draws"
        )
    setting: dict[str, object] = {
        "tiles": ", ".join(str(item.folder) for item in data),
        "count": sum(map(len, tiles.values())),
        "scales": list(scales),
        "methods": {item.label: item.target for item in contenders},
        "precision": precision or "that of `wsisr upscale` on this machine",
    }
    columns = tuple(metric.name for metric in chosen)
    if only and not metrics.GROUPS & set(only):
        columns = tuple(only)
    return Quality(tuple(rows), columns, missing, conventions, setting)


def _rows(
    contender: Contender,
    where: tuple[str, int],
    results: Sequence[TileResult],
    not_run: Mapping[str, str],
    intervals: bool,
    per_slide: bool,
) -> tuple[list[Row], str | None]:
    (data, scale), method = where, contender.label
    ranked = contender.target != "hr"

    def mean(some: Sequence[TileResult]) -> dict[str, float]:
        values = metrics.summarize([tile.values[method] for tile in some])
        return {name: value for name, value in values.items() if name not in not_run}

    ends: Mapping[str, tuple[float, float]] = {}
    unit = None
    if intervals and results:
        found, unit = bootstrap(results, [method], 0)
        ends = {name: pair for name, pair in found[method].items() if name not in not_run}
    rows = [Row(data, method, scale, None, len(results), mean(results), ends, not_run, ranked)]
    if per_slide:
        for slide in sorted({tile.place.group for tile in results}):
            some = [tile for tile in results if tile.place.group == slide]
            rows.append(Row(data, method, scale, slide, len(some), mean(some), {}, not_run, ranked))
    return rows, unit


def _difference(
    where: tuple[str, int],
    by_method: Mapping[str, Sequence[TileResult]],
    label: str,
    against: str,
    not_run: Mapping[str, str],
) -> tuple[Row, str]:
    """Return a row `LABEL - AGAINST` and what was drawn for its intervals.

    Its values are the differences of the methods' means. The intervals are those of the difference,
    both measured on the same draws: what is hard about a slide is so for both and drops out, so
    they tell more than whether the methods' own intervals overlap.
    """
    pairs = zip(by_method[label], by_method[against], strict=True)
    both = [TileResult(one.place, {**one.values, **other.values}) for one, other in pairs]
    draws, unit = draw_means(both, [label, against], 0)
    means = [metrics.summarize([tile.values[name] for tile in both]) for name in (label, against)]
    names = [name for name in means[0] if name in means[1] and name not in not_run]
    values = {name: means[0][name] - means[1][name] for name in names}
    ends = {name: interval(draws[label][name] - draws[against][name]) for name in names}
    title = f"{label} - {against}"
    return Row(where[0], title, where[1], None, len(both), values, ends, not_run, False), unit


def _refuse_doubles(option: str, labels: Sequence[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"{option}: {label} stands twice; give each a name: LABEL=...")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the table, write the files; return the exit code.

    1 where not a single figure was measured.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tiles", nargs="+", required=True, metavar="[LABEL=]FOLDER[@MPP]")
    add("--table", type=int, choices=SHAPES, help="the shape of this table of the paper")
    add("--scales", default=None, help="comma-separated integers; default: 4,8; 4 with --table")
    add("--methods", nargs="+", default=["bicubic"], metavar="[LABEL=]WHAT", help="also by commas")
    add("--metrics", default=None, help="comma-separated; default: the table's, or all available")
    add("--limit", type=int, default=None, help="that many tiles of each folder, spread evenly")
    add("--intervals", action="store_true", help="95 %% intervals, slides drawn (tiles under 3)")
    add("--against", metavar="LABEL", help="add each method's difference to this one, paired")
    add("--per-slide", action="store_true", help="a line for each slide as well")
    add("--segmenter", choices=segmenters.NAMES, default="classical", help="of nuclei")
    add("--device", default="cpu")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="default: bf16 where fast, else fp32")
    add("--markdown", type=Path, default=None, help="write the table here")
    add("--csv", type=Path, default=None, help="write one line a figure here")
    add("--json", type=Path, default=None, help="write the result here")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    shape = SHAPES.get(options.table, PLAIN)
    only = options.metrics.split(",") if options.metrics else (list(shape.metrics) or None)
    try:
        for path in (options.markdown, options.csv, options.json):
            _check_output(path)
        result = run(
            [data_set(text) for text in options.tiles],
            _scales(options.scales or ("4" if options.table else "4,8")),
            [contender(each) for text in options.methods for each in text.split(",")],
            options.limit,
            options.device,
            only,
            precision=options.precision,
            intervals=options.intervals,
            per_slide=options.per_slide,
            against=options.against,
            segmenter=segmenters.choose(options.segmenter),
            show_progress=not options.quiet,
        )
        table = result.markdown(shape)
        print(table)
        _write(options.markdown, table + "\n")
        _write(options.csv, result.csv())
        _write(options.json, metrics.to_json(result.json()))
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    why = result.nothing()
    if why is not None:
        print(f"error: nothing was measured: {why}", file=sys.stderr)
        return 1
    for reason, places in result.lacking(options.against).items():
        where = ", ".join(places)
        print(f"--against {options.against}: no differences on {where}: {reason}", file=sys.stderr)
    return 0


def _scales(text: str) -> list[int]:
    try:
        scales = [int(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or min(scales) < 1 or len({*scales}) < len(scales):
        raise UsageError(f"--scales {text}: give whole numbers, each once, as 4,8")
    return scales


def _check_output(path: Path | None) -> None:
    """Raise `OutputError` now for a file that could not be written after hours of measuring."""
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; give a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: {path.parent} is no folder; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: no right to; choose another place")


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
