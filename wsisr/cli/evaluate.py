"""The command `wsisr eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsisr.cli.grouping import (
    GroupedCommand,
    input_option,
    measure_option,
    output_option,
    run_option,
)
from wsisr.cli.options import (
    PATH,
    PLACE,
    cache_options,
    json_option,
    log_file_option,
    trust_input_option,
)
from wsisr.cli.telling import tell

if TYPE_CHECKING:
    from wsisr.evaluation.report import Evaluation


@click.command(name="eval", cls=GroupedCommand)
@click.argument("sr", type=PLACE)
@click.argument("hr", type=PLACE, required=False)
@input_option(
    "--lr",
    type=PLACE,
    metavar="PATH",
    help="Slide, or folder of tiles, that SR was made from; it adds a bicubic baseline.",
)
@input_option(
    "--also",
    multiple=True,
    metavar="LABEL=PATH",
    help="Further result to compare, of the size of SR; give it again for several.",
)
@input_option(
    "--tiles", is_flag=True, help="Take SR and HR for folders of tiles of the same names."
)
@input_option(
    "--scale",
    type=click.IntRange(1),
    metavar="N",
    help="With --tiles and without --lr, make the low resolution from HR by this factor.",
)
@input_option(
    "--transform",
    type=PATH,
    metavar="FILE",
    help="JSON file with the matrix from pixels of SR to pixels of HR, instead of registration.",
)
@input_option(
    "--sr-mpp", type=float, metavar="X", help="Resolution of SR in um/px, where it records none."
)
@input_option(
    "--hr-mpp", type=float, metavar="X", help="Resolution of HR in um/px, where it records none."
)
@measure_option(
    "--metrics",
    metavar="NAMES",
    default="offline",
    show_default=True,
    help="Measures, separated by commas; offline is all without a network and NRQM, all is all.",
)
@measure_option(
    "--segmenter",
    default="classical",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="Finder of nuclei: classical, hovernet, instanseg, a folder of label images, or GeoJSON.",
)
@measure_option(
    "--count",
    type=click.IntRange(0),
    metavar="N",
    default=200,
    show_default=True,
    help="Number of tissue tiles to judge; 0 takes all.",
)
@measure_option(
    "--tile-size",
    type=click.IntRange(32),
    metavar="PX",
    default=512,
    show_default=True,
    help="Side of the tiles in which slides are judged, in pixels of SR.",
)
@measure_option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Number that the choice of tiles depends on.",
)
@measure_option(
    "--force",
    is_flag=True,
    help="Give measures that compare pixel with pixel even where SR and HR do not lie well on each "
    "other.",
)
@output_option("--out", type=PATH, metavar="DIR", help="Folder to write a report to.")
@output_option(
    "--label", default="sr", show_default=True, metavar="NAME", help="Name of SR in tables."
)
@run_option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    show_default="one for each core",
    help="Number of tiles that are judged at once.",
)
@trust_input_option
@cache_options
@log_file_option
@json_option
def evaluate(
    sr: str | Path,
    hr: str | Path | None,
    lr: str | Path | None,
    also: tuple[str, ...],
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Judges the result SR against the real scan HR, or alone.

    SR and HR are slides as paths or URLs, or folders of tiles with --tiles.
    """
    import wsisr
    from wsisr.evaluation import parse_labels

    evaluation = wsisr.evaluate(
        sr, hr, lr, also=parse_labels(also), count=count or None, show_progress=True, **options
    )
    click.echo(evaluation.json() if as_json else evaluation.table())
    tell_of(evaluation, options["out"])


def tell_of(evaluation: Evaluation, out: Path | None) -> None:
    """Says on stderr what the table leaves out, and where the report lies."""
    from wsisr.evaluation.report import REPORT

    if evaluation.failed:
        tell(f"not read: {', '.join(evaluation.failed)}")
    if evaluation.not_run:
        where = "--out DIR or --json say why" if out is None else "the report says why"
        tell(f"not run: {', '.join(evaluation.not_run)}; {where}")
    if out is not None:
        tell(f"report: {out / REPORT}")
