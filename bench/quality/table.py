r"""Measures methods on folders of real tiles, also in the shapes of the paper's tables.

    python -m bench.quality --tiles tiles/val --scales 4,8 --methods bicubic,tiny,restore
    python -m bench.quality --table 2 --tiles PRAD-100=prad LUAD-100=luad GBM-100=gbm@0.5 \
        --methods Bicubic=bicubic Real-ESRGAN=RealESRGAN_x4plus.pth Ours=runs/mine/model \
        --intervals --per-slide --markdown table2.md --csv table2.csv

Each tile is area-averaged by the scale to its LR input, upscaled by every method and measured
against the tile itself. `--tiles` takes FOLDER or LABEL=FOLDER, with @MPP behind it where a pixel
is not 0.25 um; sub-folders are slides. A method is LABEL=WHAT or WHAT alone: `bicubic`, `hr` (the
tile itself: what a perfect result would score), a folder of ready PNG files (named like the tiles;
with several data sets or scales in sub-folders LABEL, `x4`, LABEL/`x4`), or any model name, folder
or file that wsisr knows. What cannot run stays in the table and says why. `--against plain` adds
lines `tiny - plain`: the difference of the two with its own 95 % interval; one that holds 0 may be
chance. The exit code is 1 where not a single figure was measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.command import (
    add_choice,
    add_json,
    add_scales,
    make_parser,
    name_list,
    output_file,
    scale_list,
    write_json,
    write_text,
)
from bench.quality.markdown import LAYOUTS, PLAIN, Layout, to_markdown
from bench.quality.measure import Setup, measure_plan
from bench.quality.plan import Plan, make_plan, parse_data_set, parse_method
from bench.quality.results import QualityTable
from bench.quality.rows import make_table
from wsisr.evaluation.nuclei import choose_segmenter

SEGMENTERS = ("classical", "hovernet", "instanseg")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the files.

    Returns:
        The exit code: 1 where not a single figure was measured.

    Raises:
        UsageError: what was asked for cannot be measured.
        OutputError: a file cannot be written.
    """
    options = _parser().parse_args(arguments)
    layout = LAYOUTS.get(options.table, PLAIN)
    plan = _plan(options, layout)
    setup = Setup(
        options.device, options.precision, choose_segmenter(options.segmenter), not options.quiet
    )
    table = make_table(
        plan,
        setup,
        measure_plan(plan, setup),
        intervals=options.intervals,
        per_slide=options.per_slide,
    )
    text = to_markdown(table, layout)
    print(text)
    write_text(options.markdown, text + "\n")
    write_text(options.csv, table.csv())
    write_json(options.json, table.json())
    return _exit_code(table, options.against)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("bench.quality table", __doc__)
    add = parser.add_argument
    add(
        "--tiles",
        nargs="+",
        required=True,
        metavar="[LABEL=]FOLDER[@MPP]",
        help="folders of real tiles",
    )
    add_choice(parser)
    add(
        "--table",
        type=int,
        choices=LAYOUTS,
        help="give the table the shape of this one of the paper",
    )
    add_scales(parser, None)
    add(
        "--methods",
        nargs="+",
        default=["bicubic"],
        metavar="[LABEL=]WHAT",
        help="methods, also separated by commas",
    )
    add(
        "--metrics",
        type=name_list,
        help="measures, separated by commas; default: those of --table, or all that can run",
    )
    add(
        "--intervals",
        action="store_true",
        help="add 95 %% intervals, by drawing slides (tiles where there are fewer than 3)",
    )
    add("--against", metavar="LABEL", help="add each method's difference to this one, paired")
    add("--per-slide", action="store_true", help="add a line for each slide")
    add("--segmenter", choices=SEGMENTERS, default="classical", help="what finds nuclei")
    add("--device", default="cpu", help="where models run; default: cpu")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="precision of models; default: bf16 where that is fast, else fp32",
    )
    add("--markdown", type=output_file, metavar="FILE", help="also write the table to this file")
    add("--csv", type=output_file, metavar="FILE", help="also write one line a figure to this file")
    add_json(parser)
    add("--quiet", action="store_true", help="show no progress")
    return parser


def _plan(options: argparse.Namespace, layout: Layout) -> Plan:
    return make_plan(
        [parse_data_set(text) for text in options.tiles],
        options.scales or scale_list("4" if options.table else "4,8"),
        [parse_method(each) for text in options.methods for each in text.split(",")],
        slides=options.slides,
        limit=options.limit,
        only=options.metrics or layout.metrics or None,
        against=options.against,
    )


def _exit_code(table: QualityTable, against: str | None) -> int:
    """Says on stderr what is missing in the table and returns the exit code."""
    why = table.why_empty()
    if why is not None:
        print(f"error: nothing was measured: {why}", file=sys.stderr)
        return 1
    for reason, places in table.why_lacking(against).items():
        where = ", ".join(places)
        print(f"--against {against}: no differences on {where}: {reason}", file=sys.stderr)
    return 0
