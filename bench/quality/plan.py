"""Plans what the quality table measures, and checks it before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.quality.methods import Method, ready_file
from bench.quality.tiles import MPP, DataSet, list_tiles, slide_names
from wsisr.errors import OptionError
from wsisr.evaluation.measures import METRIC_GROUPS, Metric, available_metrics

LARGEST_MPP = 2


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        data: the data sets, in the order of the table.
        tiles: files of the tiles to be measured, by the label of the data set.
        scales: whole numbers, in the order of the table.
        methods: the methods, in the order of the table.
        metrics: the measures that are to run and can.
        not_run: {measure: why it cannot run}.
        columns: names of the measures that the table shows, in order.
        slides: names of the slides that were chosen; None for all.
        against: label of the method that the others are compared with, or None.
    """

    data: tuple[DataSet, ...]
    tiles: Mapping[str, Sequence[Path]]
    scales: tuple[int, ...]
    methods: tuple[Method, ...]
    metrics: tuple[Metric, ...]
    not_run: Mapping[str, str]
    columns: tuple[str, ...]
    slides: tuple[str, ...] | None = None
    against: str | None = None


def make_plan(
    data: Sequence[DataSet],
    scales: Sequence[int],
    methods: Sequence[Method],
    *,
    slides: Sequence[str] | None = None,
    limit: int | None = None,
    only: Sequence[str] | None = None,
    against: str | None = None,
) -> Plan:
    """Plans a table of every method on every data set at every scale.

    Args:
        data: data sets with labels that differ.
        scales: whole numbers.
        methods: methods with labels that differ.
        slides: names of the slides to be taken, None for all. A data set may lack some of them.
        limit: how many tiles of each data set to take, spread evenly; None for all.
        only: names of measures or of their groups, None for all that can run.
        against: label of the method that the others are compared with.

    Raises:
        UsageError: no tiles, unknown slides or measures, names that stand twice or are none, or
            results that a folder of ready files lacks.
    """
    _refuse_doubles("tiles", [item.label for item in data])
    _refuse_doubles("methods", [item.label for item in methods])
    if against is not None and against not in [item.label for item in methods]:
        raise OptionError("against", against, "none of <methods>; give the name of one of them")
    tiles = _tiles(data, slides, limit)
    metrics, not_run = available_metrics(only or ["all"])
    for method in methods:
        _check_ready_files(method, data, scales, tiles)
    columns = tuple(metric.name for metric in metrics)
    if only and not METRIC_GROUPS & set(only):
        columns = tuple(only)
    return Plan(
        tuple(data),
        tiles,
        tuple(scales),
        tuple(methods),
        tuple(metrics),
        not_run,
        columns,
        None if slides is None else tuple(slides),
        against,
    )


def parse_data_set(text: str) -> DataSet:
    """Returns the data set that [LABEL=]FOLDER[@MPP] names.

    Raises:
        UsageError: what follows the @ is no size of a pixel.
    """
    label, path = _labelled(text)
    mpp = MPP
    head, separator, tail = path.rpartition("@")
    if separator and not Path(path).exists():
        try:
            mpp = float(tail)
        except ValueError:
            raise OptionError("tiles", text, f"{tail!r} is no pixel size in um") from None
        if not 0 < mpp <= LARGEST_MPP:
            rule = f"a pixel size is over 0 and at most {LARGEST_MPP} um"
            raise OptionError("tiles", text, rule)
        path = head
    return DataSet(label or Path(path).name or path, Path(path), mpp)


def parse_method(text: str) -> Method:
    """Returns the method that [LABEL=]TARGET names.

    Raises:
        UsageError: there is a label alone.
    """
    label, target = _labelled(text)
    if not target:
        raise OptionError("methods", repr(text), "a method is NAME or LABEL=NAME")
    return Method(label or target, target)


def _labelled(text: str) -> tuple[str, str]:
    if Path(text).exists() or "=" not in text:
        return "", text
    label, _, rest = text.partition("=")
    return label.strip(), rest


def _refuse_doubles(option: str, labels: Sequence[str]) -> None:
    for label in labels:
        if labels.count(label) > 1:
            rule = f"{label} stands twice; give each a name: LABEL=..."
            raise OptionError(option, None, rule)


def _tiles(
    data: Sequence[DataSet], slides: Sequence[str] | None, limit: int | None
) -> dict[str, list[Path]]:
    """Lists the tiles of each data set, of the slides that it has of those that are wanted."""
    if slides is None:
        return {item.label: list_tiles(item.folder, None, limit) for item in data}
    named = {item.label: slide_names(item.folder) for item in data}
    for slide in slides:
        if not any(slide in names for names in named.values()):
            known = ", ".join(name for names in named.values() for name in names)
            raise OptionError("slides", slide, f"no such slide in <tiles>; there are {known}")
    tiles = {}
    for item in data:
        own = [slide for slide in slides if slide in named[item.label]]
        tiles[item.label] = list_tiles(item.folder, own or slides, limit)
    return tiles


def _check_ready_files(
    method: Method,
    data: Sequence[DataSet],
    scales: Sequence[int],
    tiles: Mapping[str, Sequence[Path]],
) -> None:
    if method.is_ready:
        for item in data:
            for scale in scales:
                for path in tiles[item.label]:
                    ready_file(Path(method.target), scale, item, path)
