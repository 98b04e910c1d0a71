"""Options of the commands that upscale: what is made of a slide, and how."""

from __future__ import annotations

from typing import Any

import click

from wsisr.cli.grouping import input_option, model_option, output_option, run_option
from wsisr.cli.options import on_tile_error_option, pyramid_options
from wsisr.models import COLOR_FIX_NAMES, CONSISTENCY_NAMES, PRECISION_NAMES

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


def upscaling_options(function: Any) -> Any:
    """Adds what can be asked for of every slide that is upscaled."""
    options = (
        input_option(
            "--input-mag",
            type=float,
            metavar="M",
            help="Magnification of IN to upscale from; also stands in where IN records none.",
        ),
        input_option(
            "--input-mpp",
            type=float,
            metavar="X",
            help="Resolution of the input in um/px; use it instead of --input-mag.",
        ),
        input_option(
            "--level",
            type=int,
            metavar="L",
            show_default="0, the largest",
            help="Pyramid level of IN to upscale from; use it instead of --input-mag.",
        ),
        on_tile_error_option(
            "With blank, it counts as glass and is listed in the output's metadata."
        ),
        model_option(
            "--model",
            default="tiny",
            show_default=True,
            metavar="NAME_OR_PATH",
            help="Model to run: a name of `wsisr models list`, restore (stage 1 of tiny), "
            "bicubic, a model folder or a weight file.",
        ),
        model_option(
            "--base",
            metavar="NAME_OR_PATH",
            help="Stable Diffusion 2.1 for a model without its own: a folder, a file or a hub id.",
        ),
        model_option(
            "--steps", type=int, metavar="N", show_default=OWN, help="Number of denoising steps."
        ),
        model_option(
            "--sampler",
            metavar="NAME",
            show_default=OWN,
            help="Algorithm that takes the denoising steps, for instance ddim or dpm-solver++.",
        ),
        model_option(
            "--strength",
            type=float,
            metavar="F",
            show_default=OWN,
            help="Share of noise to start from, from 0 to 1; more noise makes more new detail.",
        ),
        model_option(
            "--fidelity",
            type=float,
            metavar="F",
            show_default=OWN,
            help="Balance from 0, all generated detail, to 1, the restored image alone.",
        ),
        model_option(
            "--color-fix",
            type=click.Choice(COLOR_FIX_NAMES),
            show_default=OWN,
            help="Method that gives the result the colours of the input.",
        ),
        model_option(
            "--consistency",
            type=click.Choice(CONSISTENCY_NAMES),
            show_default=OWN,
            help="Agreement of the reduced result with the input: exact needs a lossless "
            "--compression.",
        ),
        model_option(
            "--window",
            type=int,
            metavar="PX",
            default=512,
            show_default=True,
            help="Side of the windows that the model sees, in output pixels.",
        ),
        model_option(
            "--overlap",
            type=int,
            metavar="PX",
            default=64,
            show_default=True,
            help="Overlap of neighbouring windows, in output pixels.",
        ),
        model_option("--joint", is_flag=True, help="Sample blocks of 2x2 windows together."),
        model_option(
            "--seed",
            type=int,
            metavar="N",
            default=0,
            show_default=True,
            help="Number of the noise field; the same seed gives the same pixels.",
        ),
        model_option(
            "--tissue",
            metavar="auto|off|MASK",
            default="auto",
            show_default=True,
            help="Where the model runs: on tissue it finds, everywhere, or where a mask file says; "
            "elsewhere pixels are resized only.",
        ),
        output_option(
            "--scale",
            type=float,
            metavar="N",
            show_default="what leads to 40x",
            help="Output pixels for each input pixel, any number above 1.",
        ),
        output_option(
            "--tile",
            type=TileSideType(),
            default=512,
            show_default=True,
            help="Side of the tiles that OUT stores, in pixels; see --window for the model's.",
        ),
        pyramid_options,
        output_option(
            "--uncertainty",
            type=int,
            metavar="K",
            help="Draw K samples and write their spread as a map beside OUT.",
        ),
        output_option(
            "--output-sample",
            type=click.Choice(["first", "mean"]),
            default="first",
            show_default=True,
            help="With --uncertainty, write the first sample to OUT or the mean of all.",
        ),
        run_option(
            "--precision",
            type=click.Choice(PRECISION_NAMES),
            show_default="bf16 where it is fast, else fp32",
            help="Arithmetic of the networks.",
        ),
        run_option(
            "--batch",
            type=click.IntRange(1),
            metavar="N",
            show_default="by the device",
            help="Number of windows that the model takes at once.",
        ),
        run_option(
            "--compile/--no-compile",
            default=None,
            show_default="no",
            help="Compile the networks first; it pays on long runs.",
        ),
        run_option(
            "--force",
            is_flag=True,
            help="Allow what is likely a mistake: more than 80x, a scale over 8 or one that the "
            "model was not trained for, a resolution that no microscope has, an input that was "
            "upscaled before, an output that the disk seems too small for.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function
