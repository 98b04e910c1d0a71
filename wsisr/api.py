"""The functions of the public API that take a model's settings as keywords.

Everything heavy is imported when a function is called, and a missing file is told before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from wsisr.api_remote import staged
from wsisr.errors import SlideError
from wsisr.guard import refuse_same_url
from wsisr.urls import is_url

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wsisr.engine import Announce, Foresight, Job, Result, Run
    from wsisr.models import Upscaler
    from wsisr.plan import Rect
    from wsisr.progress import Progress
    from wsisr.pyramid import Compression, Layout, Subsampling, ZarrVersion


class ModelSettings(TypedDict, total=False):
    """How a model is run; None, or nothing, leaves a setting to the model.

    Attributes:
        steps: denoising steps.
        sampler: name of a sampler, for instance `ddim`.
        strength: noise at which sampling starts, from 0 to 1.
        fidelity: 0 keeps all generated detail, 1 is stage 1 alone.
        color_fix: `wavelet`, `adain` or `none`.
        consistency: `exact`, `soft` or `off`.
        seed: number of the noise field.
        precision: `fp32`, `bf16` or `fp16`.
        compile: whether blocks of the networks go through torch.compile.
    """

    steps: int | None
    sampler: str | None
    strength: float | None
    fidelity: float | None
    color_fix: str | None
    consistency: str | None
    seed: int | None
    precision: str | None
    compile: bool | None


class UpscaleOptions(ModelSettings, total=False):
    """What `upscale` takes by keyword: a model's settings and the fields that `Job` describes."""

    destination: str | None
    scale: float | None
    input_mag: float | None
    input_mpp: float | None
    level: int | None
    region: Rect | None
    model: str
    base: str | None
    window: int
    overlap: int
    tile: int
    joint: bool
    uncertainty: int | None
    output_sample: Literal["first", "mean"]
    batch: int | None
    device: str | None
    gpus: str | None
    workers: int | None
    tissue: str
    tissue_out: Path | None
    on_tile_error: Literal["fail", "blank"]
    compression: Compression
    quality: int
    subsampling: Subsampling
    layout: Layout
    zarr_version: ZarrVersion
    anonymous: bool
    associated: bool
    overwrite: bool
    resume: bool | None
    force: bool


@overload
def upscale(
    source: Job,
    *,
    progress: Progress | None = None,
    announce: Announce | None = None,
    scheduler: str | None = None,
) -> Result: ...


@overload
def upscale(
    source: str | Path,
    output: str | Path,
    *,
    progress: Progress | None = None,
    announce: Announce | None = None,
    scheduler: str | None = None,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    **options: Unpack[UpscaleOptions],
) -> Result: ...


def upscale(
    source: Job | str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress | None = None,
    announce: Announce | None = None,
    scheduler: str | None = None,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    **options: Any,
) -> Result:
    """Upscales a slide into a pyramid, `.ome.tif`, `.ome.tiff` or `.ome.zarr`.

    Either `upscale(job)`, or `upscale(source, output, scale=4, steps=10)` with the fields of `Job`
    and of `ModelSettings` as keywords. The output appears under its name when it is complete; an
    interrupted run goes on when it is asked for again.

    Args:
        source: the input slide as a path or a URL, or a whole job.
        output: path of the result, whose suffix picks the format; an OME-Zarr may be a URL of
            object storage. It is left out beside a job.
        progress: called after each window with a `State`: windows and pixels done, time to go.
        announce: called with a `Foresight` when the first window is about to be computed.
        scheduler: address of a Dask scheduler whose workers compute the slide in bands, as
            `tcp://host:port`, or `local`; None computes it here.
        cache: folder of the copies of remote slides; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        options: see `UpscaleOptions`; left out beside a job.

    Returns:
        What came of the run.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
        TypeError: an option that does not exist, or options beside a job.

    Example:
        >>> wsisr.upscale("slide.svs", "slide_40x.ome.tif", input_mag=10, device="cpu")
    """
    if isinstance(source, str | Path):
        if output is None:
            raise TypeError("upscale() needs the path of the output beside the source")
        if is_url(source):
            refuse_same_url(source, output)
            with staged(source, cache=cache, cache_gb=cache_gb) as local:
                job = make_job(local, output, cache, cache_gb, **options)
                return upscale(job, progress=progress, announce=announce, scheduler=scheduler)
        job = make_job(source, output, cache, cache_gb, **options)
    elif output is not None or options:
        raise TypeError("upscale() takes the output and all options from the job")
    else:
        job = source
    prepared = _check(job) if scheduler is not None else _prepare(job)
    from wsisr.scaleout import upscale as run

    return run(prepared, progress, scheduler=scheduler, announce=announce)


def _check(job: Job) -> Job:
    """Gives a job whose input is there and whose output may be written.

    Raises:
        WsisrError: what is wrong with which of them.
    """
    if not job.source.exists():
        raise SlideError(f"{job.source} does not exist; check the path")
    from wsisr.pyramid import check_output

    check_output(job.output, overwrite=job.overwrite)
    return job


def _prepare(job: Job) -> Run:
    """Works out a job, and imports meanwhile what computes it; mistakes are told before that.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    _check(job)
    from wsisr.engine import prepare
    from wsisr.scaleout import name_devices

    if job.gpus is not None or job.workers is not None:
        name_devices(job.gpus, job.workers, job.device)
    imports = Thread(target=import_module, args=("wsisr.scaleout.run",), daemon=True)
    try:
        return prepare(job, when_checked=imports.start)
    finally:
        if imports.ident is not None:
            imports.join()


def foresee(job: Job) -> Foresight:
    """Says what a run will be: size, windows, disk, memory, and time from a short calibration.

    A few windows of the slide are computed in the system's temporary folder; elsewhere nothing is
    written.

    Args:
        job: what is asked for.

    Returns:
        What the run will be.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    if not job.source.exists():
        raise SlideError(f"{job.source} does not exist; check the path")
    from wsisr.engine import prepare

    run = prepare(job)
    from wsisr.scaleout import estimate

    return estimate(run)


def make_job(
    source: str | Path,
    output: str | Path,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    **options: Unpack[UpscaleOptions],
) -> Job:
    """Makes a job of keywords: settings of the model among them, paths as text or `Path`.

    Args:
        source: the input slide, on this machine.
        output: path of the result, or a URL of object storage.
        cache: folder of the journal of an output behind a URL, see `upscale`.
        cache_gb: see `upscale`.
        options: see `UpscaleOptions`.

    Raises:
        UsageError: nothing can be written to the URL.
        TypeError: an option that does not exist.
    """
    from wsisr.engine import Job

    fields: dict[str, Any] = dict(options)
    settings = {name: fields.pop(name, None) for name in ModelSettings.__annotations__}
    path = Path(output)
    if is_url(output):
        from wsisr.scaleout.remote import find_destination, open_cache

        place = find_destination(output, open_cache(cache, cache_gb))
        path, fields["destination"] = place.path, place.url
    return Job(Path(source), path, settings=given(settings), **fields)


def upscale_image(
    image: NDArray[np.uint8],
    scale: float,
    *,
    model: str | Upscaler = "tiny",
    device: str | None = None,
    window: int = 512,
    overlap: int = 64,
    force: bool = False,
    **settings: Unpack[ModelSettings],
) -> NDArray[np.uint8]:
    """Upscales an image in memory by the same windows, model and blending as a slide.

    Args:
        image: uint8 RGB (height, width, 3).
        scale: output pixels for each input pixel, above 1.
        model: name, folder or file; or a loaded model, which keeps its own settings.
        device: torch device; None is the first GPU, else the CPU.
        window: side of the model's windows in output px.
        overlap: overlap of neighbouring windows in output px.
        force: whether scales are allowed that the model was not trained for, or beyond 8.
        settings: what is to differ from the model's own settings.

    Returns:
        uint8 RGB (round(height * scale), round(width * scale), 3).

    Raises:
        WsisrError: what is wrong with which option.
    """
    from wsisr.engine import upscale_image as run

    return run(
        image,
        scale,
        model=model,
        device=device,
        window=window,
        overlap=overlap,
        force=force,
        **given(settings),
    )


def load_model(
    name: str = "tiny",
    *,
    device: str | None = None,
    base: str | None = None,
    scale: float | None = None,
    **settings: Unpack[ModelSettings],
) -> Upscaler:
    """Loads a model once, to be given to `upscale_image` many times.

    Args:
        name: `tiny`, `restore` (stage 1 of tiny), `bicubic`, a model folder or a weight file.
        device: torch device; None is the first GPU, else the CPU.
        base: where a model without UNet and autoencoder takes them from; None is its own base.
        scale: factor that it is to be used at; some models have settings of their own for some.
        settings: what is to differ from the model's own settings.

    Returns:
        A callable that makes images of windows, see `wsisr.models.Upscaler`.

    Raises:
        ModelError: no such model, or a broken one.
        UsageError: a setting out of range.
    """
    from wsisr.models import load_upscaler, pick_device

    return load_upscaler(
        name, device=pick_device(device), settings=given(settings), base=base, scale=scale
    )


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the settings that are left to the model."""
    return {name: value for name, value in settings.items() if value is not None}
