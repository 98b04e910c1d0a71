"""Quality tables: methods x metrics on folders of real tiles, also in the shapes of the paper's.

    python -m bench.quality.run --tiles tiles/val --scales 4,8 --methods bicubic,tiny,restore
    python -m bench.quality.run --table 2 --tiles PRAD-100=prad LUAD-100=luad GBM-100=gbm@0.5 \
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
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bench.quality.table import PLAIN, SHAPES, Quality, Row
from wsisr.errors import OutputError, UsageError, WsisrError
from wsisr.evaluation import BOOTSTRAP_DRAWS, bootstrap, draw_means, interval
from wsisr.evaluation.measures import (
    METRIC_GROUPS,
    Image,
    Measurement,
    Metric,
    Sample,
    Scan,
    area_downsample,
    available_metrics,
    bicubic_upsample,
    measure_tile,
    metric_conventions,
    summarize,
)
from wsisr.evaluation.nuclei import (
    SEGMENTERS,
    ClassicalSegmenter,
    Segmenter,
    choose_segmenter,
)
from wsisr.evaluation.pairing import Location, read_image
from wsisr.evaluation.report import TileResult, to_json

TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MPP = 0.25


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
        sample = Sample(sr, Scan(hr, data.mpp, segmenter), lr)
        values: dict[str, Measurement] = {}
        for metric in chosen:
            if metric.name not in refused:
                try:
                    values |= measure_tile(sample, [metric])
                except UsageError as error:
                    refused[metric.name] = str(error)
        relative = path.relative_to(data.folder)
        location = Location(relative.as_posix(), relative.parent.as_posix(), 0, 0, width, height)
        results.append(TileResult(location, {contender.label: values}))
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
    chosen, missing = available_metrics(only or ["all"])
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
    conventions = {**metric_conventions(chosen), "nuclei": segmenter.convention}
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
    if only and not METRIC_GROUPS & set(only):
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
        values = summarize([tile.values[method] for tile in some])
        return {name: value for name, value in values.items() if name not in not_run}

    ends: Mapping[str, tuple[float, float]] = {}
    unit = None
    if intervals and results:
        found, unit = bootstrap(results, [method], 0)
        ends = {name: pair for name, pair in found[method].items() if name not in not_run}
    rows = [Row(data, method, scale, None, len(results), mean(results), ends, not_run, ranked)]
    if per_slide:
        for slide in sorted({tile.location.group for tile in results}):
            some = [tile for tile in results if tile.location.group == slide]
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
    both = [TileResult(one.location, {**one.values, **other.values}) for one, other in pairs]
    draws, unit = draw_means(both, [label, against], 0)
    means = [summarize([tile.values[name] for tile in both]) for name in (label, against)]
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
        prog="python -m bench.quality.run",
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
    add("--segmenter", choices=SEGMENTERS, default="classical", help="of nuclei")
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
            segmenter=choose_segmenter(options.segmenter),
            show_progress=not options.quiet,
        )
        table = result.markdown(shape)
        print(table)
        _write(options.markdown, table + "\n")
        _write(options.csv, result.csv())
        _write(options.json, to_json(result.json()))
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
