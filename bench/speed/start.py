"""Measures how long a command takes until it says or computes something.

    python -m bench.speed start --slide slides/test_a_5x.tif --rounds 5 --json start.json

Each command runs in a process of its own, and all take turns, so that all see the same machine.
Seconds of CPU, user and system together, hardly depend on what else it does; wall time does. Both
are the least of all rounds. A run ends with its first window, of one window in all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.command import DATA, add_json, make_parser, report
from wsisr.errors import WsisrError

MODULES = "import sys; from wsisr.cli import run\ntry: run()\nfinally: print(len(sys.modules))"
ONE_WINDOW = ("--scale", "4", "--region", "0,0,128,128", "--tissue", "off", "--overwrite")


def commands(slide: Path, folder: Path) -> dict[str, tuple[list[str], int]]:
    """Gives what is measured: name -> words behind `wsisr`, and the expected exit code.

    Args:
        slide: a slide that records its resolution.
        folder: for outputs.
    """
    out = str(folder / "out.ome.tif")
    there = folder / "there.ome.tif"
    there.touch()
    return {
        "wrong_path": (["upscale", str(folder / "missing.svs"), out], 1),
        "existing_output": (["upscale", str(slide), str(there)], 1),
        "wrong_option": (["upscale", str(slide), out, "--sampler", "nosuch"], 2),
        "missing_model": (["upscale", str(slide), out, "--model", str(folder / "nosuch")], 1),
        "info": (["info", str(slide)], 0),
        "models": (["models", "show", "tiny"], 0),
        "bicubic": (["upscale", str(slide), out, "--model", "bicubic", *ONE_WINDOW], 0),
        "tiny": (["upscale", str(slide), out, "--model", "tiny", *ONE_WINDOW], 0),
    }


def run_once(words: Sequence[str], code: int) -> tuple[float, float, int]:
    """Runs a command: seconds of CPU, seconds by the clock, and the modules that it imported.

    Args:
        words: of its command line, behind `wsisr`.
        code: the exit code that it must end with.

    Raises:
        WsisrError: it ended with another.
    """
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MODULES, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode != code:
        said = done.stderr.strip().splitlines()
        raise WsisrError(f"`wsisr {' '.join(words)}` failed: {said[-1] if said else 'no message'}")
    cpu = after.children_user - before.children_user + after.children_system
    return cpu - before.children_system, wall, int(done.stdout.splitlines()[-1])


def measure(slide: Path, rounds: int, names: Sequence[str] | None = None) -> dict[str, float]:
    """Measures each command in turns.

    Args:
        slide: a slide that records its resolution.
        rounds: how often each runs.
        names: of `commands`; None takes all.

    Returns:
        `<name>_cpu_s`, `<name>_wall_s` and `<name>_modules` of each.
    """
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        known = commands(slide, Path(folder))
        for _ in range(rounds):
            for name in names or known:
                cpu, wall, modules = run_once(*known[name])
                for unit, value in (("cpu_s", cpu), ("wall_s", wall)):
                    key = f"{name}_{unit}"
                    figures[key] = min(value, figures.get(key, value))
                figures[f"{name}_modules"] = modules
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser("bench.speed start", __doc__)
    parser.add_argument(
        "--slide",
        type=Path,
        default=DATA / "slides" / "test_a_5x.tif",
        metavar="FILE",
        help="a slide that records its resolution; default: one of the data package",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    add_json(parser)
    options = parser.parse_args(arguments)
    if not options.slide.exists():
        raise WsisrError(f"{options.slide} does not exist; check the path")
    report(measure(options.slide, options.rounds), options.json)
    return 0
