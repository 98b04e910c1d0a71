"""Tells whether pixels are those of an earlier version, by the hashes of six runs.

    python -m bench.quality golden --data DATA --json before.json
    python -m bench.quality golden --data DATA --against before.json

Each run upscales a region of a slide of the H&E data package with fp32 networks, in a process of
its own. Its hash is the `sha256_pixels` that `wsisr upscale --json` gives. Hashes depend on the
kind of processor and on the libraries: compare them on one machine. With `--against` the exit code
is 1 where a hash differs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.command import add_data, add_json, make_parser, run_module, write_json
from wsisr.errors import OptionError

COARSE, COARSEST = "test_b_10x.tif", "test_a_5x.tif"
RUNS = {
    "tiny_x4": (COARSE, "--scale 4 --region 128,128,300,260"),
    "tiny_x8": (COARSEST, "--scale 8 --region 64,64,150,140"),
    "bicubic": (COARSE, "--scale 4 --model bicubic"),
    "exact": (
        COARSE,
        "--scale 4 --region 128,128,200,200 --consistency exact --compression deflate",
    ),
    "joint": (COARSEST, "--scale 8 --region 64,64,120,100 --joint"),
    "uncertainty": (COARSE, "--scale 4 --region 128,128,200,200 --uncertainty 2"),
}
"""{name of a run: file of the slide, options of `wsisr upscale`}."""


def hash_of_run(name: str, data: Path) -> str:
    """Runs one of `RUNS` and returns the SHA-256 of its pixels.

    Args:
        name: which run.
        data: folder of the H&E data package.

    Raises:
        OptionError: the data package has no such slide.
        WsisrError: the run failed.
    """
    file, options = RUNS[name]
    slide = data / "slides" / file
    if not slide.is_file():
        raise OptionError("data", data, f"has no slides/{file}; give the H&E data package")
    with tempfile.TemporaryDirectory(prefix="wsisr-golden-") as folder:
        output = Path(folder) / f"{name}.ome.tif"
        words = [*options.split(), "--precision", "fp32", "--json", "--overwrite"]
        result = run_module("wsisr", "upscale", str(slide), str(output), *words)
    return str(result["sha256_pixels"])


def read_hashes(path: Path) -> dict[str, str]:
    """Reads the hashes that `--json` wrote.

    Raises:
        OptionError: the file cannot be read, or is none of `--json`.
    """
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError("against", path, f"cannot be read: {error}") from error
    if not isinstance(hashes, dict) or not set(RUNS) & set(hashes):
        raise OptionError("against", path, "holds no hashes; give a file that --json wrote")
    return hashes


def verdict(name: str, found: str, earlier: Mapping[str, str] | None) -> str:
    """Returns what a comparison says of a run; nothing where none is asked for."""
    if earlier is None:
        return ""
    if name not in earlier:
        return "  not compared"
    return "  equal" if earlier[name] == found else f"  DIFFERS from {earlier[name]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints name and hash of each run; returns 1 where one differs from an earlier one.

    Raises:
        WsisrError: a run failed, or a file cannot be read or written.
    """
    parser = make_parser("bench.quality golden", __doc__)
    add_data(parser)
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with the hashes of this JSON file"
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    earlier = None if options.against is None else read_hashes(options.against)
    hashes: dict[str, str] = {}
    for name in RUNS:
        hashes[name] = hash_of_run(name, options.data)
        print(f"{name} {hashes[name]}{verdict(name, hashes[name], earlier)}", flush=True)
    write_json(options.json, hashes)
    different = [
        name for name in RUNS if earlier and earlier.get(name, hashes[name]) != hashes[name]
    ]
    if different:
        print(f"error: the pixels of {', '.join(different)} differ", file=sys.stderr)
    return 1 if different else 0
