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
    log_file_option,
    out_argument,
    overwrite_option,
    resume_option,
    scheduler_option,
    trust_input_option,
)
from wsisr.cli.running import run_and_tell, show_plan
from wsisr.cli.telling import tell
from wsisr.cli.upscaling import upscaling_options
from wsisr.errors import SlideError
from wsisr.guard import refuse_same_url
from wsisr.urls import is_url


@click.command(cls=GroupedCommand, renamed=RENAMED)
@in_argument
@out_argument
@upscaling_options
@input_option(
    "--region",
    type=RegionType(),
    show_default="all of it",
    help="Part of IN to upscale: left, top, width and height in pixels of level 0.",
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
@scheduler_option
@trust_input_option
@cache_options
@overwrite_option
@resume_option
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
@log_file_option
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
    refuse_same_url(source, output)
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

    tell(
        f"{result.output}: {result.width}x{result.height} px, {result.magnification:g}x "
        f"({result.mpp:.4g} um/px), {result.seconds:.0f} s. {NOTICE}"
    )
