"""From a job to a run: everything that is decided before a pixel is computed.

Mistakes are told here, and soon: what needs no more than names and headers comes first, hashing
the input and finding its tissue last, and torch is not imported for any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisr.engine.exact import aligned_overlap, check_exact
from wsisr.engine.job import Job
from wsisr.engine.limits import check_input, check_original, check_output
from wsisr.engine.machine import describe_machine
from wsisr.engine.uncertainty import check_uncertainty, describe_map
from wsisr.errors import OptionError, SlideError
from wsisr.models import block_side, describe_upscaler, name_device
from wsisr.plan import Plan, check_factor, make_plan, scaled_region
from wsisr.pyramid import PyramidSpec
from wsisr.resolution import default_scale, nominal_magnification
from wsisr.slides import View, open_slide, select_view, slide_digests
from wsisr.version import VERSION
from wsisr_kernels import blend_margin

if TYPE_CHECKING:
    from wsisr.models import ModelDescription, Upscaler
    from wsisr.tissue import TissueMask

NOTICE = "Computer-generated pixels: not for primary diagnosis."

DamagedTiles = set[tuple[str, int, int]]
"""(`level N`, column, row) of each tile of the input that could not be decoded."""


@dataclass(frozen=True)
class Resolution:
    """Scale of a run and the resolution it leads to.

    Attributes:
        scale: output px for each input px.
        mpp: um/px of the output.
        magnification: nominal magnification of the output.
        downsample: level-0 px of the input for each px that is upscaled.
    """

    scale: float
    mpp: float
    magnification: float
    downsample: float = 1.0


@dataclass(frozen=True)
class ModelChoice:
    """Which model computes a run, and how it is set; any process can load it.

    Attributes:
        name: name, folder or weight file.
        device: where it is put, a name of torch's.
        settings: overrides of the model's own settings.
        base: where a model without UNet and autoencoder takes them from.
        scale: factor it is used at.
    """

    name: str
    device: str
    settings: Mapping[str, Any]
    base: str | None
    scale: float

    def load(self) -> Upscaler:
        """Loads the model onto its device.

        Raises:
            ModelError: it is missing or broken.
            UsageError: a setting is out of range.
        """
        from wsisr.models import load_upscaler

        return load_upscaler(
            self.name,
            device=self.device,
            settings=self.settings,
            base=self.base,
            scale=self.scale,
        )

    def describe(self) -> ModelDescription:
        """Says what the model is, without loading it where that can be.

        Raises:
            ModelError: it is missing or lacks files.
            UsageError: a setting is out of range.
        """
        return describe_upscaler(
            self.name,
            device=self.device,
            settings=self.settings,
            base=self.base,
            scale=self.scale,
        )


@dataclass(frozen=True)
class Run:
    """A job worked out: plain, picklable data that any process can take up.

    Attributes:
        job: what was asked for.
        resolution: scale and resolution of the output.
        plan: the windows.
        tissue: where the model runs; None is everywhere.
        model: which model computes the windows.
        image: the pyramid of the output. Its provenance says all that makes the pixels, so its
            digest is the run's fingerprint.
        map: the pyramid of the uncertainty map; None without one.
        damaged: damaged tiles of the input that were met so far; None where they stop the run.
    """

    job: Job
    resolution: Resolution
    plan: Plan
    tissue: TissueMask | None
    model: ModelChoice
    image: PyramidSpec
    map: PyramidSpec | None
    damaged: frozenset[tuple[str, int, int]] | None


def prepare(job: Job, when_checked: Callable[[], None] = lambda: None) -> Run:
    """Works out a job, without writing anything.

    Args:
        job: what is asked for.
        when_checked: called when options and files are checked, before the input is hashed and
            its tissue found, which can take a while.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    check_original(job)
    damaged: DamagedTiles | None = set() if job.on_tile_error == "blank" else None
    with open_view(job, damaged) as view:
        resolution = find_resolution(job, view)
        plan = plan_run(job, view, resolution.scale)
        choice = ModelChoice(
            job.model, name_device(job.device), settings_of(job), job.base, plan.scale
        )
        model = choice.describe()
        check_uncertainty(job, model.stochastic)
        check_mask(job)
        when_checked()
        tissue = find_tissue(job, view)
        provenance = describe_run(job, view, plan, resolution, model.facts, choice.device)
        image = describe_output(job, view, plan, resolution, provenance)
        return Run(
            job,
            resolution,
            plan,
            tissue,
            choice,
            image,
            None if job.uncertainty is None else describe_map(image),
            None if damaged is None else frozenset(damaged),
        )


@contextmanager
def open_view(job: Job, damaged: DamagedTiles | None = None) -> Iterator[View]:
    """Opens the slide of a job at the resolution that is upscaled.

    Args:
        job: names both.
        damaged: gets the damaged tiles that are met, which are then background; None lets them
            raise.

    Raises:
        SlideError: the slide cannot be read.
        UsageError: it has no such resolution.
    """
    with open_slide(job.source, unreadable=damaged) as slide:
        yield select_view(slide, input_mag=job.input_mag, input_mpp=job.input_mpp, level=job.level)


def find_resolution(job: Job, view: View) -> Resolution:
    """Decides scale, mpp and magnification of the output.

    Raises:
        SlideError: the input records no resolution and none is given.
        OptionError: a scale that is not greater than 1 or beyond reason, or one that only `force`
            allows, see `wsisr.engine.limits`.
    """
    if view.mpp is None:
        raise SlideError(
            f"{job.source}: records no resolution; give it as <input_mpp> X (um/px) or "
            "<input_mag> M"
        )
    check_input(job, view)
    scale = default_scale(view.mpp) if job.scale is None else job.scale
    if job.scale is None and scale <= 1:
        remedy = "give <scale> N, or <input_mag> M to start from a lower resolution"
        has = f"{job.source} has 40x ({view.mpp:.4g} um/px) already; {remedy}"
        raise OptionError("scale", None, has)
    check_factor(scale)
    check_output(job, view, view.mpp, scale)
    mpp = view.mpp / scale
    return Resolution(scale, mpp, round(nominal_magnification(mpp), 2), view.downsample)


def plan_run(job: Job, view: View, scale: float) -> Plan:
    """Lays out the windows of a run, or blocks of windows where they are sampled together.

    Raises:
        OptionError: a size, an overlap, a region or exact consistency that does not do.
    """
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
    """Tells whether the output's coding keeps every byte."""
    return (
        job.compression in ("deflate", "zstd")
        or job.output.suffix == ".zarr"
        or (job.compression == "jpeg2000" and job.quality == 100)
    )


def settings_of(job: Job) -> dict[str, Any]:
    """Gives the model's settings that a job overrides."""
    return {**job.settings} | ({"joint": (job.window, job.overlap)} if job.joint else {})


def check_mask(job: Job) -> None:
    """Checks that the mask file of a job is there.

    Raises:
        OptionError: it is missing.
    """
    if job.tissue not in ("auto", "off"):
        from wsisr.tissue import check_mask_file

        check_mask_file(Path(job.tissue))


def find_tissue(job: Job, view: View) -> TissueMask | None:
    """Finds or reads where the model runs; None is everywhere.

    Raises:
        UsageError: the mask file is missing or no mask.
        SlideError: the slide cannot be read.
    """
    if job.tissue == "off":
        return None
    # only here: OpenCV and the reduction of images are not needed for what is checked before
    from wsisr.tissue import load_mask, tissue_mask

    return tissue_mask(view) if job.tissue == "auto" else load_mask(Path(job.tissue), view)


def describe_tissue(job: Job) -> str | dict[str, Any]:
    """Says where the model runs: how tissue is found, or by which mask file."""
    if job.tissue in ("auto", "off"):
        return job.tissue
    mask = Path(job.tissue)
    name = "mask" if job.anonymous else mask.name
    return {"name": name, **slide_digests(mask, with_names=not job.anonymous)}


def describe_run(
    job: Job,
    view: View,
    plan: Plan,
    resolution: Resolution,
    model: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """Says what makes the pixels, in plain JSON values: input, model, weights, seed, settings."""
    return {
        "software": f"wsisr {VERSION}",
        "notice": NOTICE,
        "input": {
            "name": job.shown_name,
            **slide_digests(job.source, with_names=not job.anonymous),
            "mpp": view.mpp,
            "magnification": view.magnification,
            "downsample": resolution.downsample,
        },
        "region": [plan.region.x, plan.region.y, plan.region.width, plan.region.height],
        **describe_place(job, plan, resolution),
        "scale": resolution.scale,
        "window": plan.window,
        "overlap": plan.overlap,
        "blend_margin": blend_margin(plan.overlap),
        "tissue": describe_tissue(job),
        "machine": describe_machine(device),
        **({"samples": [job.uncertainty, job.output_sample]} if job.uncertainty else {}),
        **model,
    }


def describe_place(job: Job, plan: Plan, resolution: Resolution) -> dict[str, Any]:
    """Says where in the input a region lies: in its level-0 px as asked for, and in um."""
    place, region = find_place(job, plan, resolution), job.region
    if region is None or place is None:
        return {}
    asked = [region.x, region.y, region.width, region.height]
    return {"region_of_input": asked, "position_um": [round(value, 4) for value in place]}


def find_place(job: Job, plan: Plan, resolution: Resolution) -> tuple[float, float] | None:
    """Gives the corner of a region in um from that of the slide; None for a whole slide."""
    if job.region is None:
        return None
    return plan.region.x * resolution.mpp, plan.region.y * resolution.mpp


def name_image(job: Job, resolution: Resolution, provenance: Mapping[str, Any]) -> str:
    """Gives the name that viewers show: nobody is to take the image for a scan."""
    made_by = f"wsisr {provenance.get('model', job.model)} x{resolution.scale:.4g}"
    shown = job.shown_name if job.anonymous else job.source.stem
    return f"{shown} (super-resolved, {made_by})"


def describe_output(
    job: Job, view: View, plan: Plan, resolution: Resolution, provenance: Mapping[str, Any]
) -> PyramidSpec:
    """Describes geometry, codec and metadata of the output.

    Raises:
        UsageError: a value outside its range.
    """
    return PyramidSpec(
        width=plan.region.width,
        height=plan.region.height,
        mpp=resolution.mpp,
        magnification=resolution.magnification,
        tile=job.tile,
        compression=job.compression,
        quality=job.quality,
        subsampling=job.subsampling,
        layout=job.layout,
        zarr_version=job.zarr_version,
        associated=dict(view.slide.associated) if job.associated else {},
        icc_profile=view.icc_profile,
        background=view.background,
        name=name_image(job, resolution, provenance),
        position=find_place(job, plan, resolution),
        provenance=provenance,
    )
