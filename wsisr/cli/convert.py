"""The command `wsisr convert`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from wsisr.cli.copying import local_copy
from wsisr.cli.grouping import GroupedCommand, input_option, output_option, run_option
from wsisr.cli.options import (
    RENAMED,
    cache_options,
    in_argument,
    json_option,
    log_file_option,
    on_tile_error_option,
    out_argument,
    overwrite_option,
    pyramid_options,
    resume_option,
    trust_input_option,
)
from wsisr.cli.progress import progress_bar
from wsisr.cli.telling import tell
from wsisr.guard import refuse_same_url


@click.command(cls=GroupedCommand, renamed=RENAMED)
@in_argument
@out_argument
@input_option(
    "--input-mag",
    type=float,
    metavar="M",
    help="Magnification of IN, in place of what it records.",
)
@input_option(
    "--input-mpp",
    type=float,
    metavar="X",
    help="Resolution of IN in um/px, in place of what it records.",
)
@on_tile_error_option("With blank, it is left empty and listed in the output's metadata.")
@output_option(
    "--tile",
    type=int,
    metavar="PX",
    default=512,
    show_default=True,
    help="Side of the tiles that OUT stores, in pixels; copied tiles keep their own.",
)
@pyramid_options
@output_option(
    "--reencode",
    is_flag=True,
    help="Decode and encode every tile, even where JPEG tiles could be copied as they are.",
)
@run_option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    default=2,
    show_default=True,
    help="Number of threads that encode tiles.",
)
@trust_input_option
@cache_options
@overwrite_option
@resume_option
@log_file_option
@json_option
def convert(source: str | Path, output: str | Path, as_json: bool, **options: Any) -> None:
    """Converts the slide IN to the pyramid OUT without a model.

    IN may be a URL, and so may OUT as .ome.zarr.
    The suffix of OUT picks the format: .ome.tif, .ome.tiff or .ome.zarr. An interrupted conversion
    goes on when the same command is given again.
    """
    import wsisr

    refuse_same_url(source, output)
    with (
        local_copy(source, options["cache"], options["cache_gb"]) as local,
        progress_bar("tile", at_once=True) as progress,
    ):
        result = wsisr.convert(local, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), default=str))
    else:
        tell(f"{result.output}: {result.width}x{result.height} px")
