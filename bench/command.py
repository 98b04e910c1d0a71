"""Holds what the programs of bench share: start by name, options, and what they print.

A program is a module with `main(arguments) -> exit code`. It may raise `WsisrError`, which
`dispatch` prints in one line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsisr.errors import OptionError, OutputError, WsisrError

DATA = Path(os.environ.get("WSISR_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
"""Folder of the H&E data package."""


def dispatch(
    package: str,
    programs: Mapping[str, str],
    arguments: Sequence[str] | None = None,
    default: str | None = None,
) -> int:
    """Runs the program that the first word names and imports no other.

    Args:
        package: the package whose modules the programs are, for instance `bench.speed`.
        programs: name of each program and one sentence that says what it measures.
        arguments: words of the command line, None for those of this process.
        default: program that runs where the first word is an option.

    Returns:
        The exit code: that of the program, 2 for a program that does not exist.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(_overview(package, programs, default))
        return 0
    if default is not None and first.startswith("-"):
        words = [default, *words]
    name, *rest = words
    if name not in programs:
        print(f"error: {package} has no program {name}; choose from {', '.join(programs)}",
              file=sys.stderr)  # fmt: skip
        return 2
    try:
        code: int = importlib.import_module(f"{package}.{name}").main(rest)
    except WsisrError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    return code


def _overview(package: str, programs: Mapping[str, str], default: str | None) -> str:
    width = max(map(len, programs))
    lines = [f"usage: python -m {package} PROGRAM ...", ""]
    lines += [f"  {name:<{width}}  {text}" for name, text in programs.items()]
    if default is not None:
        lines += ["", f"Without a program's name, {default} runs."]
    return "\n".join([*lines, "", f"`python -m {package} PROGRAM --help` lists its options."])


def one_line(error: WsisrError) -> str:
    """Returns an error's message with options spelled as on the command line."""
    return error.spelled(lambda option: "--" + option.replace("_", "-"))


def make_parser(program: str, text: str | None) -> argparse.ArgumentParser:
    """Returns a parser that shows `text` as it stands.

    Args:
        program: what follows `python -m`, for instance `bench.quality seams`.
        text: the module's docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Adds `--json FILE`."""
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the figures to this file"
    )


def add_tiles(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    """Adds `--tiles FOLDER` and what chooses among its tiles.

    Args:
        parser: gets the options.
        limit: default of `--limit`.
    """
    parser.add_argument(
        "--tiles",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of real 40x tiles; its sub-folders are slides",
    )
    add_choice(parser, limit)


def add_choice(parser: argparse.ArgumentParser, limit: int | None = None) -> None:
    """Adds `--slides` and `--limit`, which choose tiles."""
    parser.add_argument(
        "--slides",
        type=name_list,
        metavar="NAME,...",
        help="take the tiles of these slides alone, named as their sub-folders",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help="take N tiles of each folder, spread evenly"
        + ("; default: all" if limit is None else "; default: %(default)s"),
    )


def add_scales(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Adds `--scales`."""
    parser.add_argument(
        "--scales", type=scale_list, default=default, metavar="N,...",
        help="whole numbers, separated by commas; default: " + (default or "4,8; 4 with --table"),
    )  # fmt: skip


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds `--model`."""
    parser.add_argument("--model", default="tiny", help="any model that `wsisr upscale` takes")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds `--data FOLDER`."""
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        metavar="FOLDER",
        help="the H&E data package; default: $WSISR_DATA, else ../shared/data",
    )


def name_list(text: str) -> list[str]:
    """Returns the parts of a list that commas separate."""
    return [part.strip() for part in text.split(",")]


def scale_list(text: str) -> list[int]:
    """Returns the whole numbers of a list that commas separate.

    Raises:
        OptionError: a part is no whole number of at least 1, or stands twice.
    """
    try:
        scales = [int(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if not scales or min(scales) < 1 or len({*scales}) < len(scales):
        raise OptionError("scales", text, "give whole numbers, each once, as 4,8")
    return scales


def output_file(text: str) -> Path:
    """Returns the path of a file to be written, and looks whether it could be.

    Raises:
        OutputError: it could not: better known now than after hours of measuring.
    """
    path = Path(text)
    if path.is_dir():
        raise OutputError(f"{path} cannot be written: it is a folder; give a file")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: {path.parent} is no folder; create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path} cannot be written: no right to; choose another place")
    return path


def write_text(path: Path | None, text: str) -> None:
    """Writes a file where one is wanted.

    Raises:
        OutputError: it cannot be written.
    """
    if path is not None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: Path | None, figures: Mapping[str, object]) -> None:
    """Writes an object where one is wanted, as strict JSON: what is not finite becomes null.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is not None:
        # measures take a second to import
        from wsisr.evaluation.report import to_json

        write_text(path, to_json(figures))


def report(figures: Mapping[str, object], path: Path | None) -> None:
    """Prints one figure a line and writes them to a file where one is wanted.

    Raises:
        OutputError: the file cannot be written.
    """
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {_shown(value):>12}")
    write_json(path, figures)


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


_FROM_A_SMALL_PROCESS = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def run_module(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Runs a module in a process of its own and returns the JSON that it prints.

    The process imports the same code as this one. Its messages go to this one's stderr. A small
    process starts it: on Linux the peak memory that getrusage tells begins with that of whatever
    process started one.

    Args:
        module: what follows `python -m`.
        arguments: words of its command line.
        environment: variables to be set for it, beside those of this process.

    Raises:
        WsisrError: the process failed.
    """
    command = (sys.executable, "-m", module, *arguments)
    done = subprocess.run(
        [sys.executable, "-S", "-c", _FROM_A_SMALL_PROCESS, *command],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        | dict(environment or {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        shown = " ".join(("python", *command[1:]))
        raise WsisrError(f"`{shown}` failed with exit code {done.returncode}")
    return json.loads(done.stdout)
