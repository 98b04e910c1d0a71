"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsisr.plan import Rect

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
        window, overlap: window side and overlap in output px.
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
    window: int = 512
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
