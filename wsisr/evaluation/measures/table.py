"""Every measure of wsisr in one table, in the order of reports.

A measure of your own is a function in a module beside this one and an entry here.
"""

from __future__ import annotations

from wsisr.evaluation.measures import fidelity, naturalness, nrqm, spectrum, stain
from wsisr.evaluation.measures.metric import Deferred, Metric, Need

PAIR = ("sr", "reference")
"""What measures against the scan take."""
ALONE: frozenset[Need] = frozenset()
"""Needs of a measure without a reference."""
BOTH_NUCLEI: frozenset[Need] = frozenset({"hr", "sr_nuclei"})
NETWORK_LEAST = (32, 32)
"""Sides in px under which layers of a network would have nothing left."""

METRICS = (
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
        least=(fidelity.WINDOW_SIZE, fidelity.WINDOW_SIZE),
    ),
    Metric(
        "ms_ssim",
        "MS-SSIM",
        "higher",
        "five scales with the exponents of Wang et al. 2003 on the SSIM above, 2x2 averages",
        lambda s: fidelity.ms_ssim(s.sr, s.reference, s.ssim_means),
        least=(fidelity.MS_SSIM_LEAST, fidelity.MS_SSIM_LEAST),
    ),
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        "version 0.1, AlexNet of torchvision, input scaled to -1..1, float32",
        Deferred("perceptual.lpips", PAIR),
        weights=("lpips", "alexnet"),
        least=NETWORK_LEAST,
    ),
    Metric(
        "st_lpips",
        "ST-LPIPS",
        "lower",
        "shift-tolerant LPIPS, AlexNet, weights vST0.0, input scaled to -1..1, float32",
        Deferred("perceptual.st_lpips", PAIR),
        weights=("st_lpips",),
        least=NETWORK_LEAST,
    ),
    Metric(
        "dists",
        "DISTS",
        "lower",
        "VGG16 of torchvision with Hann pooling, published weights, full size (not reduced to "
        "256 px), float32",
        Deferred("perceptual.dists", PAIR),
        weights=("dists", "vgg16"),
        least=NETWORK_LEAST,
    ),
    Metric(
        "uni",
        "UNI cosine",
        "higher",
        "cosine of the class tokens of SR and HR, each reduced to 224 px by an antialiased "
        "bilinear filter, ImageNet mean and deviation, float32",
        Deferred("embedding.similarity", PAIR, ("uni",)),
        weights=("uni",),
    ),
    Metric(
        "plip",
        "PLIP cosine",
        "higher",
        "cosine of the projected image vectors of SR and HR, each reduced to 224 px by an "
        "antialiased bicubic filter, CLIP mean and deviation, float32",
        Deferred("embedding.similarity", PAIR, ("plip",)),
        weights=("plip",),
    ),
    Metric(
        "clip_iqa",
        "CLIP-IQA",
        "higher",
        "CLIP RN50 without positional embedding, full size, `Good photo.` against `Bad photo.`, "
        "0..1, float32",
        Deferred("clip_iqa.clip_iqa", ("sr",)),
        ALONE,
        ("clip_rn50",),
        least=NETWORK_LEAST,
    ),
    Metric(
        "clip_iqa_boxblur",
        "CLIP-IQA (boxblur)",
        "higher",
        "as clip_iqa with prompts learnt on box-blurred histology, 0..1",
        Deferred("clip_iqa.clip_iqa", ("sr",), ("boxblur",)),
        ALONE,
        ("clip_rn50", "clip_iqa_boxblur"),
        least=NETWORK_LEAST,
    ),
    Metric(
        "clip_iqa_gaussian",
        "CLIP-IQA (Gaussian)",
        "higher",
        "as clip_iqa with prompts learnt on Gaussian-blurred histology, 0..1",
        Deferred("clip_iqa.clip_iqa", ("sr",), ("gaussian",)),
        ALONE,
        ("clip_rn50", "clip_iqa_gaussian"),
        least=NETWORK_LEAST,
    ),
    Metric(
        "musiq",
        "MUSIQ",
        "higher",
        "KonIQ-10k weights, three scales (full size, 384, 224 px), float32",
        Deferred("musiq.musiq", ("sr",)),
        ALONE,
        ("musiq",),
        least=NETWORK_LEAST,
    ),
    Metric(
        "nrqm",
        "NRQM",
        "higher",
        "authors' forests, conventions of pyiqa: BT.601 luma rounded; float64",
        lambda s: nrqm.nrqm(s.sr),
        ALONE,
        ("nrqm",),
        least=(nrqm.LEAST_SIDE, nrqm.LEAST_SIDE),
        slow=True,
    ),
    Metric(
        "niqe",
        "NIQE",
        "lower",
        "authors' pristine model, MATLAB luma rounded, 96 px blocks, as BasicSR; exactly flat "
        "places have no sign",
        lambda s: naturalness.niqe(s.sr),
        ALONE,
        ("niqe",),
        least=naturalness.NIQE_LEAST,
    ),
    Metric(
        "brisque",
        "BRISQUE",
        "lower",
        "published support vectors, grey 0..1, zero-padded 7x7 window, as the package brisque",
        lambda s: naturalness.brisque(s.sr),
        ALONE,
        ("brisque",),
        least=naturalness.BRISQUE_LEAST,
    ),
    Metric(
        "sharpness",
        "sharpness",
        "higher",
        "log variance of the Laplacian of the 8-bit luma: an offline stand-in for a learned blur "
        "score, also raised by noise",
        lambda s: naturalness.sharpness(s.sr),
        ALONE,
    ),
    Metric(
        "comb_level_db",
        "comb level of SR (dB)",
        "lower",
        "strongest grid of 8, 16, 32 or 64 px over the image's own texture; needs no reference",
        lambda s: spectrum.strongest_comb_db(s.combs),
        ALONE,
    ),
    Metric(
        "mesh_share",
        "meshes in SR",
        "lower",
        "share of 32 px windows with more than 0.35 of the detail finer than 6.5 px in a mesh of "
        "4 px, at 0.8 grey levels or more; BT.601 luma, Hann window; needs no reference",
        lambda s: spectrum.mesh_share(s.sr),
        ALONE,
    ),
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
        BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.sr_count,
    ),
    Metric(
        "nuclei_recall",
        "nuclei recall",
        "higher",
        "share of HR's nuclei that match one of SR (IoU > 0.5); the rest is lost",
        lambda s: s.nuclei_agreement.recall,
        BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_count,
    ),
    Metric(
        "nuclei_pq",
        "nuclei PQ",
        "higher",
        "panoptic quality: summed IoU of matches over the mean of both counts",
        lambda s: s.nuclei_agreement.pq,
        BOTH_NUCLEI,
        weight=lambda s: (s.nuclei_agreement.sr_count + s.nuclei_agreement.hr_count) / 2,
    ),
    Metric(
        "nuclei_count_difference",
        "nuclei count difference",
        "zero",
        "(count in SR - count in HR) / count in HR",
        lambda s: s.nuclei_agreement.count_difference,
        BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_count,
    ),
    Metric(
        "nuclei_area_difference",
        "nuclei area difference",
        "zero",
        "(nuclear area in SR - in HR) / in HR",
        lambda s: s.nuclei_agreement.area_difference,
        BOTH_NUCLEI,
        weight=lambda s: s.nuclei_agreement.hr_area,
    ),
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
