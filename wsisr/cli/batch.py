"""The command `wsisr batch`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from wsisr.cli.cohort import run_cohort, show_cohort_plan
from wsisr.cli.grouping import GroupedCommand, output_option, run_option
from wsisr.cli.options import (
    PATH,
    RENAMED,
    cache_options,
    json_option,
    log_file_option,
    scheduler_option,
    trust_input_option,
)
from wsisr.cli.telling import tell
from wsisr.cli.upscaling import upscaling_options


@click.command(cls=GroupedCommand, renamed=RENAMED)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@output_option(
    "--out",
    type=PATH,
    metavar="DIR",
    required=True,
    help="Folder of the results, the report and the logs; several commands may share it.",
)
@output_option(
    "--suffix",
    type=click.Choice([".ome.tif", ".ome.tiff", ".ome.zarr"]),
    default=".ome.tif",
    show_default=True,
    help="Format of the results that a manifest does not name.",
)
@upscaling_options
@run_option(
    "--device",
    metavar="NAME",
    show_default="first GPU, else CPU",
    help="Device that runs the model, for instance cpu or cuda:1.",
)
@run_option(
    "--gpus",
    metavar="LIST",
    help="GPUs that compute a slide each, instead of --device: their numbers, as 0,1, or all.",
)
@run_option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="one for each GPU, else one",
    help="Number of slides that are computed at once, on the GPUs in turn or on the cores.",
)
@scheduler_option
@run_option(
    "--shard",
    metavar="I/N",
    show_default="that of the array's task, in Slurm and Grid Engine",
    help="Compute only the I-th of N shares of the slides; I counts from 1.",
)
@run_option(
    "--retries",
    type=click.IntRange(0),
    metavar="N",
    default=1,
    show_default=True,
    help="How often a slide is tried again, in a fresh process, where that can help.",
)
@trust_input_option
@cache_options
@run_option(
    "--overwrite",
    is_flag=True,
    help="Replace results that were made with other settings; the same ones are left out.",
)
@run_option(
    "--dry-run",
    is_flag=True,
    help="Print what each slide will be, the size of all on disk and the time; write nothing.",
)
@run_option(
    "--log-json",
    type=PATH,
    metavar="FILE",
    help="Append events to FILE while slides are computed: one JSON object a line.",
)
@log_file_option
@json_option
@click.pass_context
def batch(
    context: click.Context,
    /,
    inputs: tuple[str, ...],
    out: Path,
    as_json: bool,
    dry_run: bool,
    log_json: Path | None,
    **options: Any,
) -> None:
    """Upscales many slides into the folder DIR.

    IN is a slide, a folder, a pattern or a URL, or one CSV manifest. Finished slides are left out,
    interrupted ones go on, and one that fails stops no other.
    """
    if dry_run:
        show_cohort_plan(inputs, out, as_json, **options)
        return
    result = run_cohort(inputs, out, log_json, **options)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in result.rows], default=str))
    done, skipped, elsewhere, failed = (
        result.count(status) for status in ("done", "skipped", "elsewhere", "failed")
    )
    tell(
        f"{done} done, {skipped} finished before, {elsewhere} by other commands, {failed} failed; "
        f"{result.report.html}"
    )
    if failed:
        context.exit(1)
