"""The command `wsisr upscale`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from wsisr.cli.copying import local_copy
from wsisr.cli.grouping import (
    GroupedCommand,
    input_option,
    model_option,
    output_option,
    run_option,
)
from wsisr.cli.options import (
    PATH,
    RENAMED,
    RegionType,
    cache_options,
    in_argument,
    json_option,
    on_tile_error_option,
    out_argument,
    overwrite_option,
    pyramid_options,
    resume_option,
)
from wsisr.cli.running import run_and_tell, show_plan
from wsisr.errors import SlideError
from wsisr.models import COLOR_FIX_NAMES, CONSISTENCY_NAMES, PRECISION_NAMES
from wsisr.urls import is_url

OWN = "the model's own"


class TileSideType(click.ParamType):
    """Side of a stored tile: a multiple of 16."""

    name = "PX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Makes a number of the text; fails as a wrong usage, and tells tile from window."""
        side = click.INT.convert(value, param, ctx)
        if not 16 <= side <= 8192 or side % 16:
            self.fail(
                f"{side} is not a multiple of 16 from 16 to 8192. It is the side of the tiles that "
                "OUT stores; the side of the model's windows is --window.",
                param,
                ctx,
            )
        return side


@click.command(cls=GroupedCommand, renamed=RENAMED)
@in_argument
@out_argument
@input_option(
    "--input-mag",
    type=float,
    metavar="M",
    help="Magnification of IN to upscale from; also stands in where IN records none.",
)
@input_option(
    "--input-mpp",
    type=float,
    metavar="X",
    help="Resolution of the input in um/px; use it instead of --input-mag.",
)
@input_option(
    "--level",
    type=int,
    metavar="L",
    show_default="0, the largest",
    help="Pyramid level of IN to upscale from; use it instead of --input-mag.",
)
@input_option(
    "--region",
    type=RegionType(),
    show_default="all of it",
    help="Part of IN to upscale: left, top, width and height in pixels of level 0.",
)
@on_tile_error_option("With blank, it counts as glass and is listed in the output's metadata.")
@model_option(
    "--model",
    default="tiny",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="Model to run: a name of `wsisr models list`, restore (stage 1 of tiny), bicubic, a model "
    "folder or a weight file.",
)
@model_option(
    "--base",
    metavar="NAME_OR_PATH",
    help="Stable Diffusion 2.1 for a model without its own: a folder, a file or a hub id.",
)
@model_option("--steps", type=int, metavar="N", show_default=OWN, help="Number of denoising steps.")
@model_option(
    "--sampler",
    metavar="NAME",
    show_default=OWN,
    help="Algorithm that takes the denoising steps, for instance ddim or dpm-solver++.",
)
@model_option(
    "--strength",
    type=float,
    metavar="F",
    show_default=OWN,
    help="Share of noise to start from, from 0 to 1; more noise makes more new detail.",
)
@model_option(
    "--fidelity",
    type=float,
    metavar="F",
    show_default=OWN,
    help="Balance from 0, all generated detail, to 1, the restored image alone.",
)
@model_option(
    "--color-fix",
    type=click.Choice(COLOR_FIX_NAMES),
    show_default=OWN,
    help="Method that gives the result the colours of the input.",
)
@model_option(
    "--consistency",
    type=click.Choice(CONSISTENCY_NAMES),
    show_default=OWN,
    help="Agreement of the reduced result with the input: exact needs a lossless --compression.",
)
@model_option(
    "--window",
    type=int,
    metavar="PX",
    default=512,
    show_default=True,
    help="Side of the windows that the model sees, in output pixels.",
)
@model_option(
    "--overlap",
    type=int,
    metavar="PX",
    default=64,
    show_default=True,
    help="Overlap of neighbouring windows, in output pixels.",
)
@model_option("--joint", is_flag=True, help="Sample blocks of 2x2 windows together.")
@model_option(
    "--seed",
    type=int,
    metavar="N",
    default=0,
    show_default=True,
    help="Number of the noise field; the same seed gives the same pixels.",
)
@model_option(
    "--tissue",
    metavar="auto|off|MASK",
    default="auto",
    show_default=True,
    help="Where the model runs: on tissue it finds, everywhere, or where a mask file says; "
    "elsewhere pixels are resized only.",
)
@output_option(
    "--scale",
    type=float,
    metavar="N",
    show_default="what leads to 40x",
    help="Output pixels for each input pixel, any number above 1.",
)
@output_option(
    "--tile",
    type=TileSideType(),
    default=512,
    show_default=True,
    help="Side of the tiles that OUT stores, in pixels; see --window for the model's.",
)
@pyramid_options
@output_option(
    "--uncertainty",
    type=int,
    metavar="K",
    help="Draw K samples and write their spread as a map beside OUT.",
)
@output_option(
    "--output-sample",
    type=click.Choice(["first", "mean"]),
    default="first",
    show_default=True,
    help="With --uncertainty, write the first sample to OUT or the mean of all.",
)
@output_option(
    "--tissue-out", type=PATH, metavar="FILE", help="Write the tissue mask to FILE as GeoJSON."
)
@run_option(
    "--device",
    metavar="NAME",
    show_default="first GPU, else CPU",
    help="Device that runs the model, for instance cpu or cuda:1.",
)
@run_option(
    "--gpus",
    metavar="LIST",
    help="GPUs that share the windows, instead of --device: their numbers, as 0,1, or all.",
)
@run_option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="one for each device",
    help="Number of processes that share the windows, on the GPUs in turn or on the cores.",
)
@run_option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers share the slide, as tcp://host:port, or local to start "
    "workers on this machine.",
)
@run_option(
    "--precision",
    type=click.Choice(PRECISION_NAMES),
    show_default="bf16 where it is fast, else fp32",
    help="Arithmetic of the networks.",
)
@run_option(
    "--batch",
    type=click.IntRange(1),
    metavar="N",
    show_default="by the device",
    help="Number of windows that the model takes at once.",
)
@run_option(
    "--compile/--no-compile",
    default=None,
    show_default="no",
    help="Compile the networks first; it pays on long runs.",
)
@cache_options
@overwrite_option
@resume_option
@run_option(
    "--force",
    is_flag=True,
    help="Allow an output of more than 80x, or one that the disk seems too small for.",
)
@run_option(
    "--dry-run",
    is_flag=True,
    help="Print plan, size on disk, memory and time, and write no OUT.",
)
@run_option(
    "--log-json",
    type=PATH,
    metavar="FILE",
    help="Append events to FILE while the run goes on: one JSON object a line.",
)
@json_option
def upscale(
    source: str | Path,
    output: str | Path,
    as_json: bool,
    dry_run: bool,
    log_json: Path | None,
    scheduler: str | None,
    **options: Any,
) -> None:
    """Upscales the slide IN into the pyramid OUT.

    IN may be a URL, and so may OUT as .ome.zarr.
    The suffix of OUT picks the format: .ome.tif, .ome.tiff or .ome.zarr. An interrupted run goes on
    when the same command is given again.
    """
    if not is_url(source) and not Path(source).exists():
        raise SlideError(f"{source} does not exist; check the path")
    from wsisr.api import make_job

    with local_copy(source, options["cache"], options["cache_gb"]) as local:
        job = make_job(local, output, **options)
        if dry_run:
            show_plan(job, as_json)
            return
        result = run_and_tell(job, log_json, scheduler)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
        return
    from wsisr.engine import NOTICE

    click.echo(
        f"{result.output}: {result.width}x{result.height} px, {result.magnification:g}x "
        f"({result.mpp:.4g} um/px), {result.seconds:.0f} s. {NOTICE}",
        err=True,
    )
