"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from wsisr.cli.grouping import Decorator, input_option, output_option, run_option
from wsisr.cli.telling import log_to
from wsisr.pyramid import COMPRESSIONS, LAYOUTS, SUBSAMPLINGS, ZARR_VERSIONS
from wsisr.slides.isolated import VARIABLE as ISOLATE_VARIABLE
from wsisr.urls import is_url

PATH = click.Path(path_type=Path)
RENAMED = {"--magnification": "--input-mag", "--mpp": "--input-mpp"}


class PlaceType(click.ParamType):
    """A path, or a URL; a URL stays the text that it is, for a path would lose a slash of it."""

    name = "PATH_OR_URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Makes a path of the text, unless it is a URL."""
        return value if is_url(value) else Path(value)


PLACE = PlaceType()
in_argument = click.argument("source", metavar="IN", type=PLACE)
out_argument = click.argument("output", metavar="OUT", type=PLACE)
overwrite_option = run_option(
    "--overwrite", is_flag=True, help="Replace an OUT that wsisr has made, and start anew."
)
resume_option = run_option(
    "--resume/--no-resume",
    default=None,
    show_default="if there is one",
    help="Go on from an unfinished run of the same job.",
)


def _open_log(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is not None:
        log_to(path)


def _isolate(context: click.Context, option: click.Parameter, trusted: bool) -> None:
    if not trusted:
        # in the environment, for the processes that share a run read slides, too
        os.environ[ISOLATE_VARIABLE] = "1"


trust_input_option = input_option(
    "--trust-input",
    is_flag=True,
    envvar="WSISR_TRUST_INPUT",
    expose_value=False,
    callback=_isolate,
    help="Decode IN in the run's own process, which a broken or hostile file can end without a "
    "word; else a process of its own decodes it.",
)
log_file_option = run_option(
    "--log-file",
    type=PATH,
    metavar="FILE",
    expose_value=False,
    callback=_open_log,
    help="Append what is told on stderr to FILE, each line with its time.",
)
json_option = run_option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout when done."
)


def cache_options(function: Any) -> Any:
    """Adds where copies of remote slides are kept."""
    options = (
        run_option(
            "--cache",
            type=PATH,
            metavar="DIR",
            show_default="the user's folder of caches",
            help="Folder of the copies of slides that are given as a URL.",
        ),
        run_option(
            "--cache-gb",
            type=float,
            metavar="N",
            show_default="50",
            help="Bound of the copies in GB; those that were not used for the longest time go.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


scheduler_option = run_option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler whose workers compute, as tcp://host:port, or local to start workers on "
    "this machine.",
)


class RegionType(click.ParamType):
    """Four whole numbers X,Y,W,H."""

    name = "X,Y,W,H"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Makes a rectangle of the text; fails as a wrong usage."""
        try:
            x, y, width, height = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not four whole numbers X,Y,W,H", param, ctx)
        from wsisr.plan import Rect

        return Rect(x, y, width, height)


def on_tile_error_option(blank: str) -> Decorator:
    """Makes the option that says what happens to damaged tiles of the input.

    Args:
        blank: what becomes of them with `blank`, in a sentence.
    """
    return input_option(
        "--on-tile-error",
        type=click.Choice(["fail", "blank"]),
        default="fail",
        show_default=True,
        help=f"Stop at a damaged tile of IN, or go on. {blank}",
    )


def pyramid_options(function: Any) -> Any:
    """Adds what an output is made of: tiles, codec, layout and associated images."""
    options = (
        output_option(
            "--compression",
            type=click.Choice(COMPRESSIONS),
            default="jpeg",
            show_default=True,
            help="Codec of the tiles; an OME-Zarr is always lossless.",
        ),
        output_option(
            "--quality",
            type=click.IntRange(1, 100),
            metavar="Q",
            default=90,
            show_default=True,
            help="Quality of JPEG and JPEG 2000; JPEG 2000 is lossless at 100.",
        ),
        output_option(
            "--subsampling",
            type=click.Choice(SUBSAMPLINGS),
            default="420",
            show_default=True,
            help="Resolution at which JPEG stores colour; 444 keeps all of it.",
        ),
        output_option(
            "--layout",
            type=click.Choice(LAYOUTS),
            default="ome",
            show_default=True,
            help="Place of the levels in a TIFF; hybrid chains them for openslide and cuCIM too.",
        ),
        output_option(
            "--zarr-version",
            type=click.Choice(ZARR_VERSIONS),
            default="0.4",
            show_default=True,
            help="Version of OME-Zarr that an .ome.zarr is written in.",
        ),
        output_option(
            "--anonymous",
            is_flag=True,
            help="Write a digest in place of IN's name, which may be a patient's.",
        ),
        output_option(
            "--associated",
            is_flag=True,
            help="Copy label and macro image to OUT; they may show patient data.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
