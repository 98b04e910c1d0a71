"""The evaluation as functions: `evaluate` for slides and folders of tiles, `measure` for arrays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wsisr.errors import ModelError, OptionError
from wsisr.evaluation.comparison import Inputs, open_comparison
from wsisr.evaluation.measures import (
    Image,
    Metric,
    Need,
    Sample,
    Scan,
    check_image,
    check_pair,
    describe_least,
    describe_needs,
    given_needs,
    measure_tile,
    wanted_metrics,
)
from wsisr.evaluation.nuclei import Segmenter, choose_segmenter
from wsisr.evaluation.options import Options, available_cores
from wsisr.evaluation.report import Evaluation, check_report
from wsisr.evaluation.run import run_comparison
from wsisr.evaluation.weights import why_missing
from wsisr.urls import is_url

RESERVED_LABELS = ("bicubic", "lr", "hr")
"""Names that tables and pictures give themselves."""
NONE_BESIDE: Mapping[str, Path] = {}


def evaluate(
    sr: Path | str,
    hr: Path | str | None = None,
    lr: Path | str | None = None,
    *,
    tiles: bool = False,
    metrics: str | Sequence[str] = "offline",
    segmenter: str | Segmenter = "classical",
    label: str = "sr",
    also: Mapping[str, Path | str] = NONE_BESIDE,
    scale: int | None = None,
    transform: Path | str | None = None,
    sr_mpp: float | None = None,
    hr_mpp: float | None = None,
    count: int | None = 200,
    tile_size: int = 512,
    seed: int = 0,
    workers: int | None = None,
    force: bool = False,
    out: Path | str | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Judges a super-resolved image against a real scan of the same glass, or alone.

    Slides are registered, tissue tiles are drawn by `seed`, and each is measured. Without `hr` the
    slide is judged alone: by measures that need no reference and, with `lr`, by its consistency
    with the input. With `lr` a bicubic baseline joins. Memory is bounded by the tiles in flight
    (two a worker), a tissue mask and an overview.

    Args:
        sr: the super-resolved slide, or with `tiles` a folder of tiles.
        hr: the real scan, or the folder of real tiles of the same relative names.
        lr: the slide that was upscaled, or a folder of the tiles that were.
        tiles: whether the paths are folders of tiles; sub-folders count as slides.
        metrics: names of measures, comma-separated or listed; `offline` is all that are quick,
            `all` is all.
        segmenter: what finds nuclei: classical, hovernet, instanseg, a folder of label images, a
            GeoJSON file, or an object.
        label: what tables call SR.
        also: {label: path} of further results on SR's grid; they are judged at the same places by
            SR's registration, and what that leaves over is measured for each.
        scale: with `tiles` and without `lr`: LR tiles are area averages of HR by this factor.
        transform: JSON file with a matrix from SR's to HR's level-0 px, in place of registration.
        sr_mpp: um/px of SR, where it records none; 0.25 for tiles.
        hr_mpp: um/px of HR, where it records none.
        count: how many tissue tiles are drawn; None for all.
        tile_size: side of the tiles that slides are judged in, px of SR.
        seed: seed of the draw of tiles and of the intervals.
        workers: how many tiles are measured at once, each on one core; None for all cores.
            Results do not depend on it.
        force: whether full-reference measures are given whatever registration leaves over.
        out: folder for report.html, tiles.csv, summary.json, tiles.geojson and lost_and_invented;
            None for no report.
        show_progress: whether a bar on stderr counts the tiles.

    Returns:
        Means and intervals of every measure, what did not run and why, and the single tiles.

    Raises:
        OptionError: options do not fit together.
        UsageError: a pixel size is unknown, or folders do not match.
        SlideError: a slide cannot be read, or both do not show the same tissue.
        ModelError: weights of the segmenter are missing or wrong.
        OutputError: `out` cannot be written.
    """
    _check_labels(label, also)
    names = _names(metrics)
    wanted_metrics(names)  # refuses unknown ones before any slide is opened
    if tiles and hr is None:
        raise OptionError("tiles", None, "give the folder of real tiles as well: SR HR")
    if scale is not None and not tiles:
        raise OptionError("scale", scale, "only with <tiles>; slides know their own resolution")
    inputs = Inputs(
        label=label,
        sr=Path(sr),
        hr=None if hr is None else Path(hr),
        lr=None if lr is None else Path(lr),
        also={name: Path(path) for name, path in also.items()},
        tiles=tiles,
        scale=scale,
        transform=None if transform is None else Path(transform),
        sr_mpp=sr_mpp,
        hr_mpp=hr_mpp,
    )
    for option, value, least in (
        ("count", count, 1),
        ("tile_size", tile_size, 1),
        ("seed", seed, 0),
    ):
        if value is not None and value < least:
            raise OptionError(option, value, f"give a whole number from {least} on")
    if out is not None:
        given = Path(segmenter) if isinstance(segmenter, str) else None
        check_report(Path(out), [*inputs.paths(), *([given] if given else [])])
    options = Options(
        metrics=tuple(names),
        tile_size=tile_size,
        count=count,
        seed=seed,
        workers=available_cores() if workers is None else workers,
        out=None if out is None else Path(out),
        force=force,
        segmenter=_segmenter(segmenter),
        show_progress=show_progress,
    )
    with open_comparison(inputs, options) as comparison:
        return run_comparison(comparison, options)


def measure(
    sr: Image,
    hr: Image | None = None,
    lr: Image | None = None,
    metrics: str | Sequence[str] = ("psnr", "ssim"),
    *,
    mpp: float = 0.25,
    segmenter: str | Segmenter = "classical",
) -> dict[str, float]:
    """Measures one super-resolved image.

    Args:
        sr: (h, w, 3) uint8 RGB, the super-resolved image.
        hr: the real scan of the same size, registered; None where there is none.
        lr: the input, (h / s, w / s, 3) uint8 RGB for a whole number s; None where there is none.
        metrics: names of measures, comma-separated or listed, see
            `wsisr.evaluation.measures.METRICS`. `offline` and `all` stand for the quick ones and
            for all, of which those are left out that the images given do not allow or whose
            weights are missing.
        mpp: um/px of SR and HR, which the search for nuclei goes by.
        segmenter: what finds nuclei: classical, hovernet, instanseg, or an object.

    Returns:
        {name: value}; NaN where a measure is not defined, as those of nuclei where there are none.

    Raises:
        OptionError: a name is unknown, or a measure was asked for by name that needs an image
            that is not given.
        ModelError: weights of a measure that was asked for by name are missing or wrong; the
            message says how to get them.
        UsageError: an array is no RGB image, sizes do not match, or an image is too small.
    """
    names = _names(metrics)
    wanted = wanted_metrics(names)
    check_image(sr, "the super-resolved image")
    scan = None
    if hr is not None:
        check_pair(sr, hr)
        scan = Scan(hr, mpp, _segmenter(segmenter))
    sample = Sample(sr, scan, lr)
    given = given_needs(sample)
    chosen = [
        metric for metric in wanted if _can_run(metric, given, sr.shape, metric.name in names)
    ]
    return {name: found.value for name, found in measure_tile(sample, chosen).items()}


def _can_run(metric: Metric, given: set[Need], shape: tuple[int, ...], by_name: bool) -> bool:
    """Tells whether a measure can run; raises the reason where it was asked for by its name."""
    lacking = metric.needs - given
    missing = why_missing(*metric.weights)
    if by_name and lacking:
        raise OptionError("metrics", metric.name, f"needs {describe_needs(lacking)}")
    fits = metric.fits(*shape[:2])
    if by_name and not fits:
        raise OptionError("metrics", metric.name, f"needs {describe_least(metric)}")
    if by_name and missing:
        raise ModelError(f"{metric.name}: {missing}")
    return not lacking and fits and missing is None


def parse_labels(texts: Iterable[str]) -> dict[str, str | Path]:
    """Reads results to compare that are given as texts.

    Args:
        texts: LABEL=PATH each.

    Returns:
        {label: path}; a URL stays a text.

    Raises:
        OptionError: a text has another form, or a label comes twice.
    """
    found: dict[str, str | Path] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not path:
            raise OptionError("also", text, "give LABEL=PATH")
        if name in found:
            raise OptionError("also", name, "this label is taken; choose another")
        found[name] = path if is_url(path) else Path(path)
    return found


def _check_labels(label: str, also: Iterable[str]) -> None:
    taken = set(RESERVED_LABELS)
    for option, name in (("label", label), *(("also", name) for name in also)):
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise OptionError(option, name, "a label has letters, digits and . _ + - only")
        if name.lower() in taken:
            raise OptionError(option, name, "this label is taken; choose another")
        taken.add(name.lower())


def _names(metrics: str | Sequence[str]) -> list[str]:
    return metrics.split(",") if isinstance(metrics, str) else list(metrics)


def _segmenter(chosen: str | Segmenter) -> Segmenter:
    return choose_segmenter(chosen) if isinstance(chosen, str) else chosen
