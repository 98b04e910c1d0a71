"""The run of an evaluation: choose measures, measure tiles, sum up, write the report."""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import cv2

from wsisr.errors import SlideError
from wsisr.evaluation.comparison import Comparison
from wsisr.evaluation.measures import (
    Measurement,
    Metric,
    available_metrics,
    describe_least,
    describe_needs,
    metric_conventions,
    summarize,
)
from wsisr.evaluation.nuclei import Segmenter
from wsisr.evaluation.options import Options
from wsisr.evaluation.pairing import ACCEPTED_RESIDUAL, Alignment
from wsisr.evaluation.report import Evaluation, TileResult, write_report
from wsisr.evaluation.statistics import BOOTSTRAP_DRAWS, bootstrap
from wsisr.evaluation.workers import measure_tiles
from wsisr.sharing import without_folders

log = logging.getLogger(__name__)

VERSIONED = ("wsisr", "numpy", "scipy", "scikit-image")


def run_comparison(comparison: Comparison, options: Options) -> Evaluation:
    """Measures a comparison and sums it up; writes the report where the options name a folder.

    Args:
        comparison: what is compared.
        options: how.

    Returns:
        The evaluation.

    Raises:
        OptionError: a measure is unknown.
        SlideError: no tile could be read.
        OutputError: the report cannot be written.
    """
    label = comparison.label
    chosen, not_run = available_metrics(options.metrics)
    by_label = _without_misaligned(chosen, not_run, comparison, options.force)
    chosen = by_label[label]
    measured = measure_tiles(comparison, by_label, options)
    tiles = measured.results
    if not tiles:
        first = next(iter(measured.failed.values()))
        raise SlideError(f"no tile of {comparison.inputs['sr']} could be read: {first}")
    for name, why in measured.failed.items():
        log.warning("%s is left out: %s", name, why)
    _note_unmet(chosen, not_run, tiles, options.segmenter)
    names = list(dict.fromkeys(name for tile in tiles for name in tile.values))
    rows = {name: [tile.values[name] for tile in tiles if name in tile.values] for name in names}
    if label != "bicubic" and "bicubic" not in rows:
        not_run["bicubic"] = "no low-resolution input (LR) to enlarge was given"
    intervals, unit = bootstrap(tiles, names, options.seed)
    alignments = comparison.alignments
    evaluation = Evaluation(
        methods={name: summarize(values) for name, values in rows.items()},
        intervals=intervals,
        undefined={name: _count_undefined(values) for name, values in rows.items()},
        unmatched=dict(measured.unmatched),
        not_run={name: without_folders(why) for name, why in not_run.items()},
        conventions=_conventions(chosen, unit, options.segmenter),
        alignment=alignments.get(label),
        also_alignments={name: found for name, found in alignments.items() if name != label},
        inputs=comparison.inputs,
        versions=_versions(),
        mpp=comparison.pairs.mpp,
        tiles=tuple(tiles),
        failed={name: without_folders(why) for name, why in measured.failed.items()},
    )
    if options.out is not None:
        write_report(evaluation, comparison.pairs, options.out, chosen, options.segmenter)
    return evaluation


def _without_misaligned(
    chosen: Sequence[Metric], not_run: dict[str, str], comparison: Comparison, force: bool
) -> dict[str, list[Metric]]:
    """Gives {label: measures that make sense for it}, and notes those that do not."""
    label = comparison.label
    by_label = {label: list(chosen)}
    for name, alignment in comparison.alignments.items():
        # bicubic and all others share SR's registration
        by_label[name] = list(by_label[label])
        if alignment.accepted or force:
            continue
        left_out = [metric.name for metric in by_label[name] if "hr" in metric.needs]
        by_label[name] = [metric for metric in by_label[name] if "hr" not in metric.needs]
        if name == label:
            not_run.update(dict.fromkeys(left_out, _misaligned(alignment)))
        elif left_out:
            not_run[f"full-reference measures of {name}"] = _misaligned(alignment)
    return by_label


def _misaligned(alignment: Alignment) -> str:
    return (
        f"the slides are misaligned by {alignment.residual_px:.2f} px (median of "
        f"{alignment.windows} windows; the limit is {ACCEPTED_RESIDUAL}); give a better transform, "
        "or force the measures"
    )


def _note_unmet(
    chosen: Sequence[Metric],
    not_run: dict[str, str],
    tiles: Sequence[TileResult],
    segmenter: Segmenter,
) -> None:
    measured = {name for tile in tiles for values in tile.values.values() for name in values}
    met = {"sr_nuclei"} if segmenter.searches else set()
    for metric in chosen:
        if metric.name not in measured:
            is_small = max(metric.least) > 1 and not any(_fits(metric, tile) for tile in tiles)
            lacking = describe_least(metric) if is_small else describe_needs(metric.needs - met)
            not_run[metric.name] = f"needs {lacking}"


def _fits(metric: Metric, tile: TileResult) -> bool:
    return metric.fits(tile.location.height, tile.location.width)


def _conventions(chosen: Sequence[Metric], unit: str, segmenter: Segmenter) -> dict[str, str]:
    return {
        **metric_conventions(chosen),
        "intervals": f"95 % percentile bootstrap over {unit}, {BOOTSTRAP_DRAWS} draws",
        "nuclei": segmenter.convention,
    }


def _count_undefined(rows: Sequence[Mapping[str, Measurement]]) -> dict[str, int]:
    names = dict.fromkeys(name for row in rows for name in row)
    counts = {n: sum(math.isnan(row[n].value) for row in rows if n in row) for n in names}
    return {name: count for name, count in counts.items() if count}


def _versions() -> dict[str, str]:
    """Gives the versions that figures depend on."""
    found = {name: version(name) for name in VERSIONED}
    return {"python": platform.python_version(), "opencv": cv2.__version__, **found}
