"""The command line that the trainings share.

python -m train STAGE --config FILE --data DIR --out DIR
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from train.config import build, read_config
from train.data import TileSet, check_apart, load_tiles
from train.loop.folder import lock_folder
from wsisr.errors import UsageError, WsisrError

T = TypeVar("T")
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell has it."""


@dataclass(frozen=True)
class Run:
    """What a stage works on, where, and for how long.

    Attributes:
        data: folder with train/ and val/.
        out: its own folder; what lies there is resumed.
        minutes: the stage stops, with a checkpoint, after so long; None runs to the end.
        limit: at most so many tiles of each split are used; None uses all.
        workers: processes that make batches; None chooses.
        slides: slides of val/ that are validated on, by name; none uses all.
    """

    data: Path
    out: Path
    minutes: float | None = None
    limit: int | None = None
    workers: int | None = None
    slides: tuple[str, ...] = ()

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Run:
        """Takes the options of `add_common`."""
        names = ("data", "out", "minutes", "limit", "workers", "slides")
        return cls(**{name: getattr(arguments, name) for name in names})

    @property
    def batch_workers(self) -> int:
        """Processes that make batches: as many as a GPU leaves idle, none beside a CPU."""
        if self.workers is not None:
            return self.workers
        gpus = torch.cuda.device_count()
        return max(0, (os.cpu_count() or 1) // gpus - 1) if gpus else 0

    def tiles(self, split: str, most: int | None = None) -> TileSet:
        """Loads the tiles of a split, `most` at the most; see `load_tiles`."""
        limits = [n for n in (self.limit, most) if n is not None]
        slides = self.slides if split == "val" else ()
        return load_tiles(self.data / split, min(limits, default=None), slides=slides)

    def splits(self, validation: int | None = None) -> tuple[TileSet, TileSet]:
        """Loads the tiles of train/ and of val/, which share no slide.

        Args:
            validation: at most so many tiles of val/.

        Raises:
            DataError: a slide is in both, or see `load_tiles`.
        """
        check_apart(self.data)
        return self.tiles("train"), self.tiles("val", validation)


def run_stage(
    description: str | None,
    section: str,
    config_type: type[T],
    fit: Callable[[T, Run], object],
    arguments: Sequence[str] | None = None,
) -> int:
    """Reads the arguments and a section of the YAML config, and runs a stage.

    Args:
        description: text of `--help`.
        section: its name in the config, and the stage's.
        config_type: pydantic dataclass of that section.
        fit: the stage.
        arguments: of the command line; by default this process's.

    Returns:
        The exit code; an expected failure is one line on stderr.

    Raises:
        SystemExit: wrong arguments.
    """
    parser = make_parser(section, description)
    add_common(parser)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)

    def work() -> None:
        values = read_config(args.config, [f"{section}.{item}" for item in args.set])
        config = build_section(config_type, values, section, args.config)
        with lock_folder(args.out):
            fit(config, Run.from_arguments(args))

    return run_and_report(work, args.out)


def build_section(config_type: type[T], values: Mapping[str, Any], section: str, file: Path) -> T:
    """Makes the config of a section.

    Args:
        config_type: pydantic dataclass of that section.
        values: all sections.
        section: its name.
        file: where they come from, for messages.

    Raises:
        UsageError: the section is missing, or a key or a value does not do.
    """
    if not isinstance(values.get(section), dict):
        raise UsageError(f"{file}: no section {section} in it")
    try:
        return build(config_type, values[section])
    except UsageError as error:
        raise UsageError(f"{file}, section {section}: {error}") from error


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Makes the parser of `python -m train COMMAND`, whose help keeps the lines of a docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m train {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_and_report(work: Callable[[], object], out: object) -> int:
    """Does the work of a command; what is expected to go wrong is one line on stderr.

    Args:
        work: the command.
        out: what it writes, for messages.

    Returns:
        The exit code.
    """
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted; give the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, SafetensorError) as error:  # a full disk while parts are exported
        print(f"error: {out} cannot be written or read ({error})", file=sys.stderr)
        return 1
    return 0


def run_in_slices(work: Callable[[], str | None], result: Callable[[], str], out: object) -> int:
    """Runs a command that is given again until it is done, and says how far it is.

    Args:
        work: goes on; returns what is next, or None when all is done.
        result: gives what is said then.
        out: what it writes, for messages.

    Returns:
        The exit code; an expected failure is one line on stderr.
    """

    def run_slice() -> None:
        left = work()
        print(result() if left is None else f"time over in {left}; give the same command again")

    return run_and_report(run_slice, out)


def add_common(parser: argparse.ArgumentParser, key: str = "KEY=VALUE") -> None:
    """Adds the options of all commands that train.

    Args:
        parser: of the command.
        key: form of what `--set` takes.
    """
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the settings")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; it is resumed")
    parser.add_argument("--minutes", type=minutes, help="stop with a checkpoint after so long")
    parser.add_argument("--threads", type=count, help="CPU threads that torch uses")
    parser.add_argument(
        "--workers",
        type=lambda text: count(text, 0),
        help="processes that make batches; by default none on a CPU, all CPUs but one beside a GPU",
    )
    parser.add_argument("--limit", type=count, help="use at most so many tiles of each split")
    parser.add_argument(
        "--slides",
        type=slide_names,
        default=(),
        metavar="NAME[,NAME]",
        help="validate on these slides of val/ alone",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar=key,
        help="change a setting; dots lead to nested keys",
    )


def minutes(text: str) -> float:
    """Reads minutes, 0 or more, for argparse."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} minutes: must be 0 or more")
    return value


def count(text: str, least: int = 1) -> int:
    """Reads a number of things for argparse."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: must be {least} or more")
    return value


def slide_names(text: str) -> tuple[str, ...]:
    """Reads names of slides, separated by commas, for argparse."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def construct(network: Callable[..., T], arguments: Mapping[str, Any], where: str) -> T:
    """Makes a network from the arguments that a config names.

    Args:
        network: its class.
        arguments: by name.
        where: the key of the config, for messages.

    Raises:
        UsageError: they are not its arguments, or do not go together.
    """
    try:
        return network(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        line = str(error).strip().splitlines()[0]
        raise UsageError(f"{where}: no network can be made of it ({line})") from error
