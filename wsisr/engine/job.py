"""What a run is asked to do, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from wsisr.plan import Rect
from wsisr.pyramid import Compression, Layout, Subsampling, ZarrVersion
from wsisr.sharing import pseudonym

TileErrors = Literal["fail", "blank"]
Sample = Literal["first", "mean"]


@dataclass(frozen=True)
class Job:
    """What `wsisr upscale` is asked to do; the fields are the options of the command line.

    Attributes:
        source: the input slide.
        output: the output; its suffix (`.ome.tif`, `.ome.tiff`, `.ome.zarr`) picks the format.
        destination: URL of object storage that takes an OME-Zarr in place of `output`, which then
            names the journal's place.
        scale: output px for each input px; None leads to 40x.
        input_mag: magnification of the input to upscale, or what it is where none is recorded.
        input_mpp: the same in um/px.
        level: stored level of the input to upscale.
        region: part to upscale, in level-0 px of the input; None is the whole slide.
        model: name, folder or weight file.
        base: where a model without UNet and autoencoder takes them from; None is its own base.
        settings: what is set of the model's `Settings`; the rest is the model's own.
        window: side of the windows that the model sees, in output px.
        overlap: output px that neighbouring windows share.
        joint: whether blocks of windows are sampled together, see `wsisr.models.joint`.
        uncertainty: how many samples' spread is written beside the output; None takes one alone.
        output_sample: which image the output is with several samples.
        batch: windows computed at once; None picks by the device.
        device: torch device; None is the first GPU, and else the CPU.
        gpus: several GPUs that share the windows: their numbers as `0,1`, or `all`.
        workers: processes that share the windows, on the GPUs in turn or, on the CPU, the cores.
        tissue: `auto`, `off` (the model runs everywhere) or a mask file.
        tissue_out: where the mask is written as GeoJSON for QuPath; None writes none.
        on_tile_error: whether damaged tiles of the input stop the run, or are treated as
            background and listed in the provenance.
        tile: side of the tiles that the output stores, in px, a multiple of 16.
        compression: see `PyramidSpec`, as those that follow.
        quality: quality of lossy compression, 1 to 100.
        subsampling: chroma subsampling of JPEG.
        layout: layout of an OME-TIFF.
        zarr_version: NGFF version of an OME-Zarr.
        anonymous: whether a digest stands for the name of the input wherever it is written.
        associated: whether label, macro and thumbnail are carried; they may hold patient data.
        overwrite: whether an existing output is replaced and an unfinished run discarded.
        resume: whether an unfinished run of the same job goes on; None does so if there is one.
        force: whether what `wsisr.engine.limits` refuses is allowed (more than 80x, a scale over 8
            or one that the model was not trained for, a resolution that no microscope has, an input
            that was upscaled before), and an output that the disk seems too small for.
    """

    source: Path
    output: Path
    destination: str | None = None
    scale: float | None = None
    input_mag: float | None = None
    input_mpp: float | None = None
    level: int | None = None
    region: Rect | None = None
    model: str = "tiny"
    base: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    window: int = 512
    overlap: int = 64
    joint: bool = False
    uncertainty: int | None = None
    output_sample: Sample = "first"
    batch: int | None = None
    device: str | None = None
    gpus: str | None = None
    workers: int | None = None
    tissue: str = "auto"
    tissue_out: Path | None = None
    on_tile_error: TileErrors = "fail"
    tile: int = 512
    compression: Compression = "jpeg"
    quality: int = 90
    subsampling: Subsampling = "420"
    layout: Layout = "ome"
    zarr_version: ZarrVersion = "0.4"
    anonymous: bool = False
    associated: bool = False
    overwrite: bool = False
    resume: bool | None = None
    force: bool = False

    @cached_property
    def shown_name(self) -> str:
        """What the input is called in all that is written: its name, or a digest."""
        return pseudonym(self.source) if self.anonymous else self.source.name

    @property
    def exact(self) -> bool:
        """Tells whether the finished bytes, averaged again, are to be those of the input."""
        return self.settings.get("consistency") == "exact"


@dataclass(frozen=True)
class Result:
    """What came of a run; `wsisr upscale --json` prints these fields.

    Attributes:
        output: path of the output, or its URL without what is secret in it.
        width: columns of level 0.
        height: rows of level 0.
        mpp: um/px of level 0.
        magnification: nominal magnification of level 0.
        levels: levels of the pyramid.
        windows: windows of this run.
        tissue_windows: those of them that the model was run on.
        model: as the job names it.
        steps: denoising steps; None where the model has none.
        seed: seed of the noise field; None where the model has none.
        seconds: duration of the run.
        seconds_by_stage: how long each stage was busy; stages overlap, so the sum can exceed
            `seconds`.
        peak_rss_mb: largest resident set of the process, in MB.
        sha256_pixels: digest of the level-0 pixels before coding, rows top to bottom; None for a
            lossy output of a resumed run, whose first pixels are gone.
        resumed_rows: rows of tiles that were written whole before this run.
        resumed_tiles: tiles that were written before this run.
        damaged_source_tiles: damaged tiles of the input that were treated as background.
        device_busy_share: share of the time in which there were windows that the devices computed,
            on average; the rest they waited, or loaded the model in a process of their own.
        uncertainty: path and figures of the uncertainty map; None without one.
    """

    output: str
    width: int
    height: int
    mpp: float
    magnification: float
    levels: int
    windows: int
    tissue_windows: int
    model: str
    steps: int | None
    seed: int | None
    seconds: float
    seconds_by_stage: Mapping[str, float]
    peak_rss_mb: float
    sha256_pixels: str | None
    resumed_rows: int = 0
    resumed_tiles: int = 0
    damaged_source_tiles: int = 0
    device_busy_share: float = 0.0
    uncertainty: Mapping[str, Any] | None = None
