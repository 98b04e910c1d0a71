"""The way of a pixel: open, plan, read, restore, sample, blend, encode, write.

`upscale` is the whole run in one process. Reading, the model, and blending with encoding work in
threads of their own, joined by bounded queues, so memory does not grow with the slide's height.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr import __version__
from wsisr.blend import Cell, CellBlender
from wsisr.errors import ModelError, SlideError, UsageError
from wsisr.exact import aligned_overlap, check_exact, fit_cell
from wsisr.forward import Computed, Predict, Runner, default_batch
from wsisr.layer import Layer
from wsisr.models import Upscaler, WindowInput, load_upscaler, pick_device
from wsisr.models.consistency import Sampling
from wsisr.models.joint import block_side
from wsisr.plan import (
    LARGEST_MAGNIFICATION,
    Plan,
    Rect,
    Window,
    default_scale,
    make_plan,
    nominal_magnification,
    scaled_region,
)
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer
from wsisr.slides import View, open_slide, select_view
from wsisr.slides.digest import file_sha256
from wsisr.stream import Prefetch, Stopwatch
from wsisr.tissue import TissueMask, load_mask, tissue_mask
from wsisr.uncertainty import (
    Summary,
    as_counts,
    check_uncertainty,
    companion_path,
    describe_map,
    sample_statistics,
)
from wsisr_kernels import blend_margin

NOTICE = "Computer-generated pixels: not for primary diagnosis."
ENCODING_THREADS = 2
QUEUED_BATCHES = 2

Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""(windows done, windows in all), called after each window."""


@dataclass(frozen=True)
class Job:
    """What `wsisr upscale` is asked to do; the fields are the options of the command line.

    Attributes:
        source, output: input slide; output path, whose suffix picks the format.
        scale: output px for each input px; None leads to 40x.
        input_mag, input_mpp, level: which resolution of the input to upscale.
        region: x, y, width, height in level-0 px of the input; None is the whole slide.
        model: name or folder. settings: overrides of the model's own settings.
        base: where a model without UNet and autoencoder takes them from; None is its own base.
        tile, overlap: window side and overlap in output px.
        joint: sample blocks of windows together, see `wsisr.models.joint`.
        uncertainty: samples whose spread is written beside the output; None takes one alone.
        output_sample: with several, the output is the `first` or their `mean`.
        batch: windows computed at once; None picks by the device.
        device: torch device; None is the first GPU and else the CPU.
        tissue: `auto`, `off` (the model runs everywhere) or a mask file.
        tissue_out: write the mask there as GeoJSON for QuPath.
        on_tile_error: `fail`, or `blank`: damaged tiles of the input count as glass and are listed
            in the provenance.
        compression, quality, subsampling, layout, zarr_version: see `PyramidSpec`.
        associated: carry label, macro and thumbnail, which may hold patient data.
        overwrite: replace an existing output and discard an unfinished run.
        resume: go on from an unfinished run of the same job; None does so if there is one.
        force: allow more than 80x.
    """

    source: Path
    output: Path
    scale: float | None = None
    input_mag: float | None = None
    input_mpp: float | None = None
    level: int | None = None
    region: Rect | None = None
    model: str = "tiny"
    base: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    tile: int = 512
    overlap: int = 64
    joint: bool = False
    uncertainty: int | None = None
    output_sample: str = "first"
    batch: int | None = None
    device: str | None = None
    tissue: str = "auto"
    tissue_out: Path | None = None
    on_tile_error: str = "fail"
    compression: str = "jpeg"
    quality: int = 90
    subsampling: str = "420"
    layout: str = "ome"
    zarr_version: str = "0.4"
    associated: bool = False
    overwrite: bool = False
    resume: bool | None = None
    force: bool = False

    @property
    def exact(self) -> bool:
        """Whether the finished bytes, averaged again, are to be those of the input."""
        return self.settings.get("consistency") == "exact"


@dataclass(frozen=True)
class Result:
    """What came of a run; `wsisr upscale --json` prints these fields.

    `seconds_by_stage` counts how long each stage was busy; stages overlap, so the sum can exceed
    `seconds`. `sha256_pixels` is over the level-0 pixels before lossy coding, top to bottom; None
    where a run was resumed, since the pixels of the tiles written before are gone. `resumed_rows`:
    rows of tiles taken over whole from the interrupted run; `resumed_tiles`: tiles in all.
    `uncertainty`: the map's path, samples, and mean, 95th percentile and largest deviation in grey
    levels, over the tissue computed in this run; None without --uncertainty.
    """

    output: str
    width: int
    height: int
    mpp: float
    magnification: float
    levels: int
    tiles: int
    tissue_tiles: int
    model: str
    steps: int | None
    seed: int | None
    seconds: float
    seconds_by_stage: Mapping[str, float]
    peak_rss_mb: float
    sha256_pixels: str | None
    resumed_rows: int = 0
    resumed_tiles: int = 0
    unreadable_tiles: int = 0
    uncertainty: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Resolution:
    """Scale of a run and the resolution it leads to."""

    scale: float
    mpp: float
    magnification: float


@dataclass(frozen=True)
class ReadWindow:
    """A window with its pixels read: glass is resized already, tissue is ready for the model.

    lr: uint8 (n, m, 3), the view's pixels under the window, from view pixel (left, top) on; None
    where nothing is made of it.
    """

    window: Window
    lr: Pixels | None
    left: int
    top: int
    glass: Pixels | None
    tissue: WindowInput | None


@dataclass(frozen=True)
class Missing:
    """What of a pyramid an interrupted run has left to do.

    Attributes:
        region: the pyramid's place on the window grid, output px.
        tile: side of the pyramid's tiles.
        done: bool (rows, columns) of tiles.
        block: side of blocks of pixels that must be made in one run; 1 where there are none.
    """

    region: Rect
    tile: int
    done: NDArray[np.bool_]
    block: int = 1

    @property
    def rows_done(self) -> int:
        """Rows of tiles, from the top, that are written whole; never the last, nor half a block."""
        whole = np.all(self.done[:-1], axis=1, keepdims=True)
        rows = int(np.argmin(whole)) if not whole.all() else len(whole)
        while rows * self.tile % self.block:
            rows -= 1
        return rows

    def needs(self, window: Window, side: int) -> bool:
        """Whether a window of that side, or a block on it, reaches into a tile not written."""
        rim = self.block - 1
        rows, columns = (
            slice(max(0, (start - rim) // self.tile), max(0, -(-(start + side + rim) // self.tile)))
            for start in (window.y - self.region.y, window.x - self.region.x)
        )
        return not self.done[rows, columns].all()


class Readable(Protocol):
    """Anything low-resolution pixels can be read from."""

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB (height, width, 3)."""
        ...


@dataclass(frozen=True)
class _InMemory:
    pixels: Pixels

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        return self.pixels[y : y + height, x : x + width]


def upscale(job: Job, progress: Progress | None = None) -> Result:
    """Upscale a slide into a pyramid.

    The output appears under its name when it is complete. After an interruption, a full disk or a
    damaged input, `<output>.partial` and its journal wait for the same job to be run again; after
    a mistake in the options or the model nothing is left.

    Raises:
        WsisrError: what is wrong with which file or option, and what to do.
    """
    began = time.monotonic()
    clock = Stopwatch()
    with ExitStack() as stack:
        unreadable: set[tuple[str, int, int]] | None = (
            set() if job.on_tile_error == "blank" else None
        )
        slide = stack.enter_context(open_slide(job.source, unreadable=unreadable))
        view = select_view(slide, input_mag=job.input_mag, input_mpp=job.input_mpp, level=job.level)
        resolution = find_resolution(job, view)
        plan = plan_run(job, view, resolution.scale)
        model = load_upscaler(
            job.model,
            device=pick_device(job.device),
            settings=settings_of(job),
            base=job.base,
            scale=plan.scale,
        )
        predict = choose_predict(job, model)
        tissue = find_tissue(job, view)
        provenance = describe_run(job, view, plan, resolution, model)
        spec = describe_output(job, view, plan, resolution, provenance)
        writer = stack.enter_context(
            open_writer(
                job.output,
                spec,
                threads=ENCODING_THREADS,
                overwrite=job.overwrite,
                resume=job.resume,
                fingerprint=fingerprint(spec),
            )
        )
        stack.push(partial(discard_after_mistake, writer))
        writers = [writer]
        if job.uncertainty is not None:
            spread = dict(provenance)
            writers.append(stack.enter_context(open_map(job, describe_map(spec, spread), writer)))
            stack.push(partial(discard_after_mistake, writers[1]))
        missing = find_missing(writers, plan, block=round(plan.scale) if job.exact else 1)
        rows_done, resumed_tiles = missing.rows_done, int(np.count_nonzero(missing.done))
        rest = remaining(plan, rows_done * spec.tile)
        batch = job.batch or default_batch(model.device)
        runner = stack.enter_context(Runner(predict, model.device, batch))
        reading = stack.enter_context(
            Prefetch(
                read_windows(rest, view, tissue, missing, clock), QUEUED_BATCHES * batch, "read"
            )
        )
        images = stack.enter_context(
            Prefetch(run_model(reading, runner, clock), QUEUED_BATCHES * batch, "model")
        )
        layers = [Layer(rest, each, rows_done) for each in writers]
        summary = Summary()
        tissue_tiles = write_windows(
            rest, images, layers, summary, clock, progress, exact=job.exact
        )
        if unreadable is not None:
            find_damage(plan, view, missing)
        # known only now; the metadata are written last
        provenance["unreadable_tiles"] = sorted(unreadable or ())
        with clock("finishing"):
            # the map first: where the output is, all that belongs to it is
            for each in reversed(writers):
                each.finish()
        clock.seconds["encoding"] = sum(each.busy_seconds for each in writers)
    settings = model.describe().get("settings", {})
    return Result(
        output=str(job.output),
        width=spec.width,
        height=spec.height,
        mpp=spec.mpp,
        magnification=spec.magnification,
        levels=len(spec.levels),
        tiles=len(plan),
        tissue_tiles=tissue_tiles,
        model=job.model,
        steps=settings.get("steps"),
        seed=settings.get("seed"),
        seconds=round(time.monotonic() - began, 3),
        seconds_by_stage={k: round(v, 3) for k, v in sorted(clock.seconds.items())},
        peak_rss_mb=peak_rss_mb(),
        sha256_pixels=None if resumed_tiles else layers[0].sha256(),
        resumed_rows=rows_done,
        resumed_tiles=resumed_tiles,
        unreadable_tiles=len(unreadable or ()),
        uncertainty=None
        if job.uncertainty is None
        else {
            "output": str(companion_path(job.output)),
            "samples": job.uncertainty,
            **summary.figures(),
        },
    )


def upscale_array(
    lr: Pixels,
    scale: float,
    *,
    model: str | Upscaler = "tiny",
    device: str | None = None,
    tile: int = 512,
    overlap: int = 64,
    exact: bool = False,
    **settings: Any,
) -> Pixels:
    """Upscale an image in memory by the same windows, model and blending as a slide.

    Args:
        lr: uint8 RGB (h, w, 3).
        scale: > 1.
        model, device, tile, overlap: see `Job`; a model that is loaded already is taken as it is.
        exact: fit the finished bytes to the input; so does the setting `consistency`.
        settings: overrides of the model's own settings.

    Returns:
        uint8 RGB (round(h * scale), round(w * scale), 3).

    Raises:
        WsisrError: what is wrong with which option.
    """
    exact = exact or settings.get("consistency") == "exact"
    if exact:
        overlap = aligned_overlap(tile, overlap, check_exact(scale, lossless=True))
    plan = make_plan(lr.shape[1], lr.shape[0], scale, tile=tile, overlap=overlap)
    if isinstance(model, str):
        model = load_upscaler(model, device=pick_device(device), settings=settings, scale=scale)
    clock = Stopwatch()
    out = np.empty((plan.region.height, plan.region.width, 3), np.uint8)
    blender = CellBlender(plan)
    reading = (read_window(plan, _InMemory(lr), None, window) for window in plan.windows())
    with Runner(one_sample(model), model.device, default_batch(model.device)) as runner:
        for item, image in run_model(reading, runner, clock):
            cell = blender.push(item.window.row, item.window.column, image.pixels)
            if cell is None:
                continue
            if exact:
                fit(item, plan, cell)
            height, width = cell.pixels.shape[:2]
            out[cell.y : cell.y + height, cell.x : cell.x + width] = cell.pixels
    return out


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
    tile, overlap = job.tile, job.overlap
    if job.joint:
        tile = block_side(tile, overlap)
    if job.exact:
        overlap = aligned_overlap(tile, overlap, check_exact(scale, is_lossless(job)))
    return make_plan(view.width, view.height, scale, region=region, tile=tile, overlap=overlap)


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
    return {**job.settings} | ({"joint": (job.tile, job.overlap)} if job.joint else {})


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
        "software": f"wsisr {__version__}",
        "notice": NOTICE,
        "input": {
            "name": job.source.name,
            "sha256": file_sha256(job.source),
            "mpp": view.mpp,
            "magnification": view.magnification,
        },
        "region": [plan.region.x, plan.region.y, plan.region.width, plan.region.height],
        "scale": resolution.scale,
        "tile": plan.tile,
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


def open_map(job: Job, spec: PyramidSpec, writer: PyramidWriter) -> PyramidWriter:
    """The writer of the uncertainty map beside the output that `writer` makes."""
    # a run that was killed between its two outputs has left the map finished: it is made again
    going_on = bool(done_tiles(writer).any())
    return open_writer(
        companion_path(job.output),
        spec,
        threads=1,
        overwrite=job.overwrite or going_on,
        resume=True if going_on else job.resume,
        fingerprint=fingerprint(spec),
    )


def read_windows(
    plan: Plan, view: View, tissue: TissueMask | None, missing: Missing, clock: Stopwatch
) -> Iterator[ReadWindow]:
    """Read the low-resolution pixels under each window, in the plan's order.

    A window that reaches into finished tiles alone is black: nothing is made of its pixels.
    """
    unused = np.broadcast_to(np.uint8(0), (plan.tile, plan.tile, 3))
    for window in plan.windows():
        if missing.needs(window, plan.tile):
            with clock("reading"):
                item = read_window(plan, view, tissue, window)
            yield item
        else:
            yield ReadWindow(window, None, 0, 0, unused, None)


def find_damage(plan: Plan, view: View, missing: Missing) -> None:
    """Read what this run had no need of, so that the slide notes the damaged tiles there too."""
    for window in plan.windows():
        if not missing.needs(window, plan.tile):
            left, right = plan.view_span(window.x, plan.columns)
            top, bottom = plan.view_span(window.y, plan.rows)
            view.read(left, top, right - left, bottom - top)


def read_window(
    plan: Plan, view: Readable, tissue: TissueMask | None, window: Window
) -> ReadWindow:
    """One window: resized at once where there is only glass, else made ready for the model."""
    left, right = plan.view_span(window.x, plan.columns)
    top, bottom = plan.view_span(window.y, plan.rows)
    pixels = view.read(left, top, right - left, bottom - top)
    up_rows, down_rows = plan.sampling(window.y, plan.rows)
    up_columns, down_columns = plan.sampling(window.x, plan.columns)
    if tissue is not None and not tissue.overlaps(left, top, right - left, bottom - top):
        glass = resize_glass(pixels, up_rows, up_columns)
        return ReadWindow(window, pixels, left, top, glass, None)
    lr = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
    rows = Sampling(torch.from_numpy(up_rows), torch.from_numpy(down_rows))
    columns = Sampling(torch.from_numpy(up_columns), torch.from_numpy(down_columns))
    tissue_input = WindowInput(window.x, window.y, lr, rows, columns)
    return ReadWindow(window, pixels, left, top, None, tissue_input)


def resize_glass(pixels: Pixels, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Pixels:
    """Bicubic with the weights (H, h) and (W, w): uint8 (h, w, 3) -> uint8 (H, W, 3)."""
    first = pixels[0, 0]
    if (pixels == first).all():
        return np.broadcast_to(first, (len(rows), len(columns), 3))
    planes = pixels.transpose(2, 0, 1).astype(np.float32)
    resized = rows @ planes @ columns.T
    glass: Pixels = np.rint(resized.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0)
    return glass


def run_model(
    windows: Iterable[ReadWindow], runner: Runner, clock: Stopwatch
) -> Iterator[tuple[ReadWindow, Computed]]:
    """The image of every window, in the order they came; glass has one already."""
    waiting: list[ReadWindow] = []
    gathered: list[WindowInput] = []

    def flush() -> Iterator[tuple[ReadWindow, Computed]]:
        images: Iterator[Computed] = iter(())
        if gathered:
            with clock("model"):
                images = iter(runner(gathered))
        for item in waiting:
            yield item, next(images) if item.glass is None else Computed(item.glass)
        waiting.clear()
        gathered.clear()

    for item in windows:
        waiting.append(item)
        if item.tissue is not None:
            gathered.append(item.tissue)
        # glass alone is passed on at once; behind tissue it waits for its turn, within bounds
        full = len(gathered) >= runner.batch
        if full or not gathered or len(waiting) >= 4 * runner.batch + 16:
            yield from flush()
    yield from flush()


def fingerprint(spec: PyramidSpec) -> str:
    """What makes the pixels, as a short text: an unfinished run goes on only if it is the same."""
    made_by = json.dumps(dict(spec.provenance), sort_keys=True)
    return hashlib.sha256(made_by.encode()).hexdigest()


def discard_after_mistake(
    writer: PyramidWriter,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """Leave nothing of a run that would only fail again."""
    if isinstance(error, (ModelError, UsageError)):
        writer.abort(keep=False)


def find_missing(writers: Sequence[PyramidWriter], plan: Plan, block: int) -> Missing:
    """What writers of one grid, which may go on from an interrupted run, lack; see `Missing`."""
    done = np.logical_and.reduce([done_tiles(writer) for writer in writers])
    return Missing(plan.region, writers[0].spec.tile, done, block)


def done_tiles(writer: PyramidWriter) -> NDArray[np.bool_]:
    """Bool (rows, columns): the tiles that an interrupted run has written."""
    rows, columns = writer.spec.grid(0)
    done = [[writer.done(row, column) for column in range(columns)] for row in range(rows)]
    return np.array(done, bool)


def remaining(plan: Plan, rows: int) -> Plan:
    """The plan without the first `rows` rows of output pixels."""
    region = plan.region
    return replace(plan, region=Rect(region.x, region.y + rows, region.width, region.height - rows))


def write_windows(
    plan: Plan,
    images: Iterable[tuple[ReadWindow, Computed]],
    layers: Sequence[Layer],
    summary: Summary,
    clock: Stopwatch,
    progress: Progress | None,
    *,
    exact: bool,
) -> int:
    """Hand every image to its layer, and its map of deviations, if there is one, to a second.

    Returns:
        How many windows the model was run on.
    """
    tissue_tiles = 0
    for done, (item, image) in enumerate(images, 1):
        is_tissue = item.tissue is not None
        tissue_tiles += is_tissue
        layers[0].push(
            item.window, image.pixels, clock, partial(fit, item, plan) if exact else None
        )
        for layer in layers[1:]:
            counts = no_deviation(plan.tile) if image.deviation is None else image.deviation
            counted = summary.add if is_tissue else None
            layer.push(item.window, as_counts(counts), clock, counted)
        if progress is not None:
            progress(done, len(plan))
    return tissue_tiles


def fit(item: ReadWindow, plan: Plan, cell: Cell) -> None:
    """Exact consistency of a finished cell with the input under its window."""
    if item.lr is not None:
        fit_cell(cell, item.lr, item.left, item.top, round(plan.scale))


def no_deviation(tile: int) -> NDArray[np.float32]:
    """The map of glass, float32 (tile, tile, 1): every sample of it is the same."""
    return np.zeros((tile, tile, 1), np.float32)


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, MB."""
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kilobytes
    return round(usage / (1e6 if sys.platform == "darwin" else 1e3), 1)
