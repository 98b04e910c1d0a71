"""Every measure in one table: name, direction, convention, what it needs, how to compute it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wsisr.errors import UsageError
from wsisr.evaluation.measures import fidelity, naturalness, nrqm, spectrum, stain
from wsisr.evaluation.measures.sample import Measurement, Sample
from wsisr.evaluation.weights import store as weights

Need = Literal["hr", "lr", "sr_nuclei"]
STATISTICS = frozenset({"niqe", "brisque", "nrqm"})
"""Weights that are tables of numbers; all others are those of networks."""
GROUPS = frozenset({"offline", "all"})
"""Names that stand for several measures; see `available`."""


@dataclass(frozen=True)
class Metric:
    """A measure of one tile."""

    name: str
    label: str
    better: Literal["higher", "lower", "zero"]
    convention: str
    compute: Callable[[Sample], float]
    needs: frozenset[Need] = frozenset({"hr"})
    weights: tuple[str, ...] = ()
    """Entries of `weights.REGISTRY` that it needs."""
    weight: Callable[[Sample], float] = lambda _: 1.0
    """Returns what the tile counts in a mean: nuclear measures count nuclei, not tiles."""
    slow: bool = False
    """Whether it takes longer than all others without a network together."""

    @property
    def uses_torch(self) -> bool:
        """Return whether a network of torch computes it."""
        return not STATISTICS.issuperset(self.weights)

    @property
    def on_request(self) -> bool:
        """Return whether it runs only when it is asked for."""
        return self.uses_torch or self.slow


def all_metrics() -> tuple[Metric, ...]:
    """Return every measure, in the order of reports."""
    return (*_PIXEL, *_LEARNED, *_NUCLEAR, *_DRIFT)


def available(only: Sequence[str] | None = None) -> tuple[list[Metric], dict[str, str]]:
    """Return the measures that are to run and can, and {name: reason} for all others.

    `only` picks by name or by group: `offline`, the default, is all that are quick, without a
    neural network (one alone, ST-LPIPS, takes twenty times as long) and without NRQM; `all` is all.
    Raises `UsageError` for a name that is neither.
    """
    table = {metric.name: metric for metric in all_metrics()}
    groups = {
        "offline": [name for name, metric in table.items() if not metric.on_request],
        "all": list(table),
    }
    asked = only or ("offline",)
    unknown = [name for name in asked if name not in table and name not in groups]
    if unknown:
        known = ", ".join((*groups, *table))
        raise UsageError(f"unknown measure {', '.join(unknown)}; known: {known}")
    wanted = dict.fromkeys(name for item in asked for name in groups.get(item, [item]))
    # who asks for a group hears of all that a report could hold
    listed = table if GROUPS & set(asked) else wanted
    chosen, not_run = [], {}
    for name in (*wanted, *(name for name in listed if name not in wanted)):
        reason = weights.missing(*table[name].weights)
        if reason is None and name not in wanted:
            kind = "a neural network" if table[name].uses_torch else "slow"
            reason = f"{kind}; --metrics all or {','.join(asked)},{name} runs it"
        if reason is None:
            chosen.append(table[name])
        else:
            not_run[name] = reason
    return chosen, not_run


def measure_tile(sample: Sample, chosen: Iterable[Metric]) -> dict[str, Measurement]:
    """Return {metric: (value, weight)} for the measures whose needs the sample meets."""
    given = {name for name in ("hr", "lr") if getattr(sample, name) is not None}
    if sample.hr is not None and sample.hr.segmenter.searches:
        given.add("sr_nuclei")
    return {
        metric.name: Measurement(metric.compute(sample), metric.weight(sample))
        for metric in chosen
        if metric.needs <= given
    }


def summarize(rows: Sequence[Mapping[str, Measurement]]) -> dict[str, float]:
    """Return the weighted mean over tiles of each measure; NaN tiles left out, NaN where all are.

    With nuclei as weights, precision, recall, PQ and the L1 metrics are those of all nuclei
    pooled: a tile with two nuclei does not weigh as much as one with two hundred.
    """
    summary = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        valid = [row[name] for row in rows if name in row and not math.isnan(row[name].value)]
        total = sum(item.weight for item in valid)
        summary[name] = sum(i.value * i.weight for i in valid) / total if total else math.nan
    return summary


def conventions(chosen: Iterable[Metric]) -> dict[str, str]:
    """Return {metric: convention}, with what holds for all under `all`."""
    shared = (
        "values are means over tiles, nuclear ones over nuclei, undefined ones left out; "
        "images are 8-bit RGB; LR test tiles are area averages rounded to 8 bit; bicubic is "
        "a = -0.75, rounded to 8 bit; infinite and undefined values are null in JSON"
    )
    return {"all": shared, **{metric.name: _convention(metric) for metric in chosen}}


def _convention(metric: Metric) -> str:
    files = weights.digests(*metric.weights)
    return "; ".join([metric.convention, *(f"{f} SHA-256 {hash}" for f, hash in files.items())])


def to_json(value: object) -> str:
    """Return strict JSON text: NaN and infinities become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


_PIXEL = (
    Metric(
        "psnr",
        "PSNR (dB)",
        "higher",
        "dB, peak 255, all pixels and channels at once, no border cut; infinite for equal images",
        lambda s: fidelity.psnr(s.sr, s.reference),
    ),
    Metric(
        "ssim",
        "SSIM",
        "higher",
        "Gaussian window 11, sigma 1.5, population covariance, RGB channels averaged, 5 px border "
        "left out (scikit-image with gaussian_weights=True, use_sample_covariance=False)",
        lambda s: float(s.ssim_means.full.mean()),
    ),
    Metric(
        "ms_ssim",
        "MS-SSIM",
        "higher",
        "five scales with the exponents of Wang et al. 2003 on the SSIM above, 2x2 averages",
        lambda s: fidelity.ms_ssim(s.sr, s.reference, s.ssim_means),
    ),
)


# torch takes seconds to import, and most runs have no use for it: the modules of learned measures
# are imported when the first of them runs


def _st_lpips(sample: Sample) -> float:
    from wsisr.evaluation.measures.perceptual import st_lpips

    return st_lpips(sample.sr, sample.reference)


def _lpips(sample: Sample) -> float:
    from wsisr.evaluation.measures.perceptual import lpips

    return lpips(sample.sr, sample.reference)


def _dists(sample: Sample) -> float:
    from wsisr.evaluation.measures.perceptual import dists

    return dists(sample.sr, sample.reference)


def _clip_iqa(sample: Sample, kind: str | None = None) -> float:
    from wsisr.evaluation.measures.clip_iqa import clip_iqa

    return clip_iqa(sample.sr, kind)


def _musiq(sample: Sample) -> float:
    from wsisr.evaluation.measures.musiq import musiq

    return musiq(sample.sr)


def _similarity(sample: Sample, model: str) -> float:
    from wsisr.evaluation.measures.embedding import similarity

    return similarity(sample.sr, sample.reference, model)


_ALONE: frozenset[Need] = frozenset()
_LEARNED = (
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        "version 0.1, AlexNet of torchvision, input scaled to -1..1, float32",
        _lpips,
        weights=("lpips", "alexnet"),
    ),
    Metric(
        "st_lpips",
        "ST-LPIPS",
        "lower",
        "shift-tolerant LPIPS, AlexNet, weights vST0.0, input scaled to -1..1, float32",
        _st_lpips,
        weights=("st_lpips",),
    ),
    Metric(
        "dists",
        "DISTS",
        "lower",
        "VGG16 of torchvision with Hann pooling, published weights, full size (not reduced to "
        "256 px), float32",
        _dists,
        weights=("dists", "vgg16"),
    ),
    Metric(
        "uni",
        "UNI cosine",
        "higher",
        "cosine of the class tokens of SR and HR, each reduced to 224 px by an antialiased "
        "bilinear filter, ImageNet mean and deviation, float32",
        lambda s: _similarity(s, "uni"),
        weights=("uni",),
    ),
    Metric(
        "plip",
        "PLIP cosine",
        "higher",
        "cosine of the projected image vectors of SR and HR, each reduced to 224 px by an "
        "antialiased bicubic filter, CLIP mean and deviation, float32",
        lambda s: _similarity(s, "plip"),
        weights=("plip",),
    ),
    Metric(
        "clip_iqa",
        "CLIP-IQA",
        "higher",
        "CLIP RN50 without positional embedding, full size, `Good photo.` against `Bad photo.`, "
        "0..1, float32",
        _clip_iqa,
        _ALONE,
        ("clip_rn50",),
    ),
    Metric(
        "clip_iqa_boxblur",
        "CLIP-IQA (boxblur)",
        "higher",
        "as clip_iqa with prompts learnt on box-blurred histology, 0..1",
        lambda s: _clip_iqa(s, "boxblur"),
        _ALONE,
        ("clip_rn50", "clip_iqa_boxblur"),
    ),
    Metric(
        "clip_iqa_gaussian",
        "CLIP-IQA (Gaussian)",
        "higher",
        "as clip_iqa with prompts learnt on Gaussian-blurred histology, 0..1",
        lambda s: _clip_iqa(s, "gaussian"),
        _ALONE,
        ("clip_rn50", "clip_iqa_gaussian"),
    ),
    Metric(
        "musiq",
        "MUSIQ",
        "higher",
        "KonIQ-10k weights, three scales (full size, 384, 224 px), float32",
        _musiq,
        _ALONE,
        ("musiq",),
    ),
    Metric(
        "nrqm",
        "NRQM",
        "higher",
        "authors' forests, conventions of pyiqa: BT.601 luma rounded; float64",
        lambda s: nrqm.nrqm(s.sr),
        _ALONE,
        ("nrqm",),
        slow=True,
    ),
    Metric(
        "niqe",
        "NIQE",
        "lower",
        "authors' pristine model, MATLAB luma rounded, 96 px blocks, as BasicSR; exactly flat "
        "places have no sign",
        lambda s: naturalness.niqe(s.sr),
        _ALONE,
        ("niqe",),
    ),
    Metric(
        "brisque",
        "BRISQUE",
        "lower",
        "published support vectors, grey 0..1, zero-padded 7x7 window, as the package brisque",
        lambda s: naturalness.brisque(s.sr),
        _ALONE,
        ("brisque",),
    ),
    Metric(
        "sharpness",
        "sharpness",
        "higher",
        "log variance of the Laplacian of the 8-bit luma: an offline stand-in for a learned blur "
        "score, also raised by noise",
        lambda s: naturalness.sharpness(s.sr),
        _ALONE,
    ),
    Metric(
        "comb_level_db",
        "comb level of SR (dB)",
        "lower",
        "strongest grid of 8, 16, 32 or 64 px over the image's own texture; needs no reference",
        lambda s: spectrum.strongest_comb_db(s.combs),
        _ALONE,
    ),
    Metric(
        "mesh_share",
        "meshes in SR",
        "lower",
        "share of 32 px windows with more than 0.35 of the detail finer than 6.5 px in a mesh of "
        "4 px, at 0.8 grey levels or more; BT.601 luma, Hann window; needs no reference",
        lambda s: spectrum.mesh_share(s.sr),
        _ALONE,
    ),
)
_BOTH_NUCLEI: frozenset[Need] = frozenset({"hr", "sr_nuclei"})
_NUCLEAR = (
    Metric(
        "l1_texture",
        "L1 texture",
        "lower",
        "nuclei of HR; contrast, dissimilarity, homogeneity, energy of the co-occurrence matrix: "
        "256 grey levels, distance 1, four angles averaged, symmetric, inside the nucleus; "
        "summed absolute differences, mean over nuclei (see `nuclei`)",
        lambda s: s.nuclear_l1[0],
        weight=lambda s: s.scan.nuclei.count,
    ),
    Metric(
        "l1_intensity",
        "L1 intensity",
        "lower",
        "nuclei of HR; mean, standard deviation, skewness, kurtosis of grey levels; summed "
        "absolute differences, mean over nuclei",
        lambda s: s.nuclear_l1[1],
        weight=lambda s: s.scan.nuclei.count,
    ),
    Metric(
        "nuclei_precision",
        "nuclei precision",
        "higher",
        "share of SR's nuclei that match one of HR (IoU > 0.5); the rest is invented",
        lambda s: s.nuclei_agreement.precision,
        _BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.sr_count,
    ),
    Metric(
        "nuclei_recall",
        "nuclei recall",
        "higher",
        "share of HR's nuclei that match one of SR (IoU > 0.5); the rest is lost",
        lambda s: s.nuclei_agreement.recall,
        _BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_count,
    ),
    Metric(
        "nuclei_pq",
        "nuclei PQ",
        "higher",
        "panoptic quality: summed IoU of matches over the mean of both counts",
        lambda s: s.nuclei_agreement.pq,
        _BOTH_NUCLEI,
        weight=lambda s: (s.nuclei_agreement.sr_count + s.nuclei_agreement.hr_count) / 2,
    ),
    Metric(
        "nuclei_count_difference",
        "nuclei count difference",
        "zero",
        "(count in SR - count in HR) / count in HR",
        lambda s: s.nuclei_agreement.count_difference,
        _BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_count,
    ),
    Metric(
        "nuclei_area_difference",
        "nuclei area difference",
        "zero",
        "(nuclear area in SR - in HR) / in HR",
        lambda s: s.nuclei_agreement.area_difference,
        _BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_area,
    ),
)
_DRIFT = (
    Metric(
        "hed_shift",
        "stain shift (OD)",
        "lower",
        "mean Wasserstein-1 distance of the haematoxylin, eosin and residual distributions, in "
        "optical density (log10), Ruifrok and Johnston vectors",
        lambda s: stain.distance(stain.hed_histograms(s.sr), s.scan.stains),
    ),
    Metric(
        "hf_db",
        "high frequencies (dB)",
        "zero",
        "energy of SR over HR between 1/8 and 1/2 cycles/px (radial), BT.601 luma, Hann window; "
        "negative = blur",
        lambda s: spectrum.ratio_db(spectrum.band_energy(s.sr), s.scan.detail),
    ),
    Metric(
        "comb_db",
        "comb (dB)",
        "zero",
        "energy of SR over HR at the harmonics of 8, 16, 32 and 64 px in the profile of mean "
        "absolute luma differences; largest of periods and directions; positive = grid",
        lambda s: spectrum.combs_ratio_db(s.combs, s.scan.combs),
    ),
    Metric(
        "lr_rmse",
        "LR RMSE",
        "lower",
        "grey levels, area average of SR (not rounded) against LR; 0.29 is LR's rounding alone",
        lambda s: fidelity.lr_rmse(s.sr, s.source),
        frozenset({"lr"}),
    ),
)
