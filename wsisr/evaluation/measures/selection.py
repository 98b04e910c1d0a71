"""Chooses measures, computes them for a tile, and sums tiles up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from wsisr.errors import OptionError
from wsisr.evaluation.measures.metric import Metric, Need
from wsisr.evaluation.measures.sample import Measurement, Sample
from wsisr.evaluation.measures.table import METRICS
from wsisr.evaluation.weights import weights_digests, why_missing

METRIC_GROUPS = frozenset({"offline", "all"})
"""Names that stand for several measures.

`offline`, the default, is all that are quick: without a neural network (one alone, ST-LPIPS, takes
twenty times as long) and without NRQM. `all` is all.
"""

NEED_NAMES: Mapping[Need, str] = {
    "hr": "a real high-resolution scan (HR)",
    "lr": "the low-resolution input (LR)",
    "sr_nuclei": "a segmenter that finds nuclei in any image, not one that gives those of HR alone",
}


def wanted_metrics(asked: Sequence[str]) -> list[Metric]:
    """Gives the measures that names or groups stand for, each once, in the order asked for.

    Args:
        asked: names of `METRICS` or of `METRIC_GROUPS`.

    Returns:
        The measures, whether they can run or not.

    Raises:
        OptionError: a name is neither.
    """
    table = {metric.name: metric for metric in METRICS}
    groups = {
        "offline": [name for name, metric in table.items() if not metric.on_request],
        "all": list(table),
    }
    for name in asked:
        if name not in table and name not in groups:
            known = ", ".join((*groups, *table))
            raise OptionError("metrics", name, f"unknown measure; known: {known}")
    names = dict.fromkeys(name for item in asked for name in groups.get(item, [item]))
    return [table[name] for name in names]


def available_metrics(only: Sequence[str] | None = None) -> tuple[list[Metric], dict[str, str]]:
    """Chooses the measures that are to run and can.

    Args:
        only: names or groups of measures; None for the group `offline`.

    Returns:
        The measures, and {name: reason} of those that do not run: the ones asked for that lack
        their weights and, where a group was asked for, all that a report could hold.

    Raises:
        OptionError: a name is neither a measure nor a group.
    """
    asked = only or ("offline",)
    wanted = wanted_metrics(asked)
    listed = METRICS if METRIC_GROUPS & set(asked) else ()
    chosen, not_run = [], {}
    for metric in wanted:
        reason = why_missing(*metric.weights)
        if reason is None:
            chosen.append(metric)
        else:
            not_run[metric.name] = reason
    for metric in listed:
        if metric not in wanted:
            kind = "a neural network" if metric.uses_torch else "slow"
            asking = f"the metrics all or {','.join(asked)},{metric.name} run it"
            not_run[metric.name] = why_missing(*metric.weights) or f"{kind}; {asking}"
    return chosen, not_run


def describe_needs(needs: Iterable[Need]) -> str:
    """Says in words what measures need."""
    return " and ".join(NEED_NAMES[need] for need in sorted(needs))


def describe_least(metric: Metric) -> str:
    """Says in words which tiles are large enough for a measure."""
    return f"tiles of at least {metric.least[1]}x{metric.least[0]} px"


def given_needs(sample: Sample) -> set[Need]:
    """Tells which needs of measures a sample meets."""
    given: set[Need] = set()
    if sample.lr is not None:
        given.add("lr")
    if sample.hr is not None:
        given.add("hr")
        if sample.hr.segmenter.searches:
            given.add("sr_nuclei")
    return given


def measure_tile(sample: Sample, chosen: Iterable[Metric]) -> dict[str, Measurement]:
    """Computes the measures whose needs a tile meets.

    Args:
        sample: the tile.
        chosen: the measures.

    Returns:
        {name: (value, weight)}; measures whose needs are not met, or which the tile is too small
        for, are left out.

    Raises:
        WsisrError: weights of a measure are missing or wrong, or LR does not fit.
    """
    given = given_needs(sample)
    return {
        metric.name: Measurement(metric.compute(sample), metric.weight(sample))
        for metric in chosen
        if metric.needs <= given and metric.fits(*sample.sr.shape[:2])
    }


def summarize(rows: Sequence[Mapping[str, Measurement]]) -> dict[str, float]:
    """Gives the weighted mean over tiles of each measure.

    With nuclei as weights, precision, recall, PQ and the L1 metrics are those of all nuclei
    pooled: a tile with two nuclei does not weigh as much as one with two hundred.

    Args:
        rows: one result of `measure_tile` a tile.

    Returns:
        {name: mean}; tiles with NaN are left out, NaN where all are.
    """
    summary = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        valid = [row[name] for row in rows if name in row and not math.isnan(row[name].value)]
        total = sum(item.weight for item in valid)
        summary[name] = sum(i.value * i.weight for i in valid) / total if total else math.nan
    return summary


def metric_conventions(chosen: Iterable[Metric]) -> dict[str, str]:
    """Gives {name: convention} of measures, with what holds for all under `all`."""
    shared = (
        "values are means over tiles, nuclear ones over nuclei, undefined ones left out; "
        "images are 8-bit RGB; LR test tiles are area averages rounded to 8 bit; bicubic is "
        "a = -0.75, rounded to 8 bit; infinite and undefined values are null in JSON"
    )
    return {"all": shared, **{metric.name: _convention(metric) for metric in chosen}}


def _convention(metric: Metric) -> str:
    files = weights_digests(*metric.weights)
    return "; ".join([metric.convention, *(f"{f} SHA-256 {hash}" for f, hash in files.items())])
