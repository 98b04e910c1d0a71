"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsisr.engine.exact import aligned_overlap, check_exact
from wsisr.engine.executor import Predict
from wsisr.engine.job import Job
from wsisr.engine.uncertainty import (
    check_uncertainty,
    sample_statistics,
)
from wsisr.errors import SlideError, UsageError
from wsisr.files import file_sha256
from wsisr.models import Upscaler, block_side
from wsisr.plan import Plan, make_plan, scaled_region
from wsisr.pyramid import PyramidSpec
from wsisr.resolution import LARGEST_MAGNIFICATION, default_scale, nominal_magnification
from wsisr.slides import View
from wsisr.tissue import TissueMask, load_mask, tissue_mask
from wsisr.version import VERSION
from wsisr_kernels import blend_margin

NOTICE = "Computer-generated pixels: not for primary diagnosis."


@dataclass(frozen=True)
class Resolution:
    """Scale of a run and the resolution it leads to."""

    scale: float
    mpp: float
    magnification: float


def find_resolution(job: Job, view: View) -> Resolution:
    """Scale, mpp and magnification of the output.

    Raises:
        SlideError: the input records no resolution and none is given.
        UsageError: a scale that is not greater than 1, or leads past 80x without --force.
    """
    if view.mpp is None:
        raise SlideError(
            f"{job.source}: records no resolution; give it as --input-mpp X (um/px) or "
            "--input-mag M"
        )
    scale = default_scale(view.mpp) if job.scale is None else job.scale
    if not scale > 1:
        remedy = "give --scale N, or --input-mag M to start from a lower resolution"
        if job.scale is None:
            raise UsageError(f"{job.source}: has 40x ({view.mpp:.4g} um/px) already; {remedy}")
        raise UsageError(f"--scale {scale:g}: must be greater than 1")
    mpp = view.mpp / scale
    magnification = nominal_magnification(mpp)
    if magnification > LARGEST_MAGNIFICATION and not job.force:
        raise UsageError(
            f"--scale {scale:g}: leads to {magnification:g}x ({mpp:.3g} um/px), past what a light "
            f"microscope resolves; at most {LARGEST_MAGNIFICATION:g}x without --force"
        )
    return Resolution(scale, mpp, magnification)


def plan_run(job: Job, view: View, scale: float) -> Plan:
    """The windows of this run, blocks of windows with --joint. Raises UsageError."""
    region = job.region
    if region is not None:
        region = scaled_region(region, view.downsample, view.width, view.height)
    window, overlap = job.window, job.overlap
    if job.joint:
        window = block_side(window, overlap)
    if job.exact:
        overlap = aligned_overlap(window, overlap, check_exact(scale, is_lossless(job)))
    return make_plan(view.width, view.height, scale, region=region, window=window, overlap=overlap)


def is_lossless(job: Job) -> bool:
    """Whether the output's coding keeps every byte."""
    lossless = job.compression in ("deflate", "zstd")
    return (
        lossless
        or job.output.suffix == ".zarr"
        or (job.compression == "jpeg2000" and job.quality == 100)
    )


def settings_of(job: Job) -> dict[str, Any]:
    """The model's settings that this run overrides."""
    return {**job.settings} | ({"joint": (job.window, job.overlap)} if job.joint else {})


def choose_predict(job: Job, model: Upscaler) -> Predict:
    """One sample a window, or several with their spread. Raises UsageError."""
    if job.uncertainty is None:
        return one_sample(model)
    check_uncertainty(job.uncertainty, job.output_sample, model, job.model)
    sampled: Any = model
    seed = model.describe()["settings"]["seed"]
    return sample_statistics(sampled, seed, job.uncertainty, job.output_sample)


def one_sample(model: Upscaler) -> Predict:
    """The model's image of each window."""
    return lambda windows: (model(windows), None)


def find_tissue(job: Job, view: View) -> TissueMask | None:
    """Where the model runs; None is everywhere. Raises UsageError or SlideError."""
    if job.tissue == "off":
        return None
    mask = tissue_mask(view) if job.tissue == "auto" else load_mask(Path(job.tissue), view)
    if job.tissue_out is not None:
        mask.to_geojson(job.tissue_out)
    return mask


def describe_run(
    job: Job, view: View, plan: Plan, resolution: Resolution, model: Upscaler
) -> dict[str, Any]:
    """What makes the pixels, in plain JSON values: input, model and weights, seed, settings."""
    return {
        "software": f"wsisr {VERSION}",
        "notice": NOTICE,
        "input": {
            "name": job.source.name,
            "sha256": file_sha256(job.source),
            "mpp": view.mpp,
            "magnification": view.magnification,
        },
        "region": [plan.region.x, plan.region.y, plan.region.width, plan.region.height],
        "scale": resolution.scale,
        "window": plan.window,
        "overlap": plan.overlap,
        "blend_margin": blend_margin(plan.overlap),
        "tissue": job.tissue,
        **({"samples": [job.uncertainty, job.output_sample]} if job.uncertainty else {}),
        **model.describe(),
    }


def describe_output(
    job: Job, view: View, plan: Plan, resolution: Resolution, provenance: Mapping[str, Any]
) -> PyramidSpec:
    """Geometry, codec and metadata of the pyramid. Raises UsageError."""
    return PyramidSpec(
        width=plan.region.width,
        height=plan.region.height,
        mpp=resolution.mpp,
        magnification=resolution.magnification,
        compression=job.compression,
        quality=job.quality,
        subsampling=job.subsampling,
        layout=job.layout,
        zarr_version=job.zarr_version,
        associated=dict(view.slide.associated) if job.associated else {},
        icc_profile=view.icc_profile,
        background=view.background,
        name=job.source.stem,
        provenance=provenance,
    )
