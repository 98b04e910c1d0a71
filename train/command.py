"""The command line the stages share: `python -m train.STAGE --config FILE --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError

from train.data import TileSet, load_tiles
from wsisr.errors import UsageError, WsisrError

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What a stage works on, where, and for how long.

    Attributes:
        data: folder with train/ and val/.
        out: its own folder; what lies there is resumed.
        minutes: stop with a checkpoint after so long; None runs to the end.
        limit: use at most so many tiles of each split.
        workers: processes that make batches; None chooses.
    """

    data: Path
    out: Path
    minutes: float | None = None
    limit: int | None = None
    workers: int | None = None

    @property
    def batch_workers(self) -> int:
        """Processes that make batches: as many as a GPU leaves idle, none beside a CPU."""
        if self.workers is not None:
            return self.workers
        gpus = torch.cuda.device_count()
        return max(0, (os.cpu_count() or 1) // gpus - 1) if gpus else 0

    def tiles(self, split: str, most: int | None = None) -> TileSet:
        """The tiles of a split, `most` at the most; see `load_tiles`."""
        limits = [n for n in (self.limit, most) if n is not None]
        return load_tiles(self.data / split, min(limits, default=None))


def run_stage(
    description: str | None,
    section: str,
    config_type: type[T],
    fit: Callable[[T, Run], object],
    arguments: Sequence[str] | None = None,
) -> int:
    """Read the arguments and a section of the YAML config, and run a stage.

    Args:
        description: for `--help`.
        section: name in the config.
        config_type: dataclass of that section.
        fit: the stage.
        arguments: of the command line; by default this process's.

    Returns:
        The exit code; an expected failure is one line on stderr.

    Raises:
        SystemExit: wrong arguments.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common(parser)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        values = read_config(args.config, [f"{section}.{item}" for item in args.set])
        if not isinstance(values.get(section), dict):
            raise UsageError(f"{args.config}: no section {section} in it")
        try:
            config = build(config_type, values[section])
        except TypeError as error:
            raise UsageError(f"{args.config}, section {section}: {error}") from error
        fit(config, Run(args.data, args.out, args.minutes, args.limit, args.workers))
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except (OSError, SafetensorError) as error:  # a full disk while parts are exported
        print(f"error: {args.out} cannot be written or read ({error})", file=sys.stderr)
        return 1
    return 0


def in_slices(work: Callable[[], str | None], result: Callable[[], str]) -> int:
    """Run a command that is given again until it is done, and say how far it is.

    Args:
        work: goes on; returns what is next, or None when all is done.
        result: what to say then.

    Returns:
        The exit code; an expected failure is one line on stderr.
    """
    try:
        left = work()
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: the run cannot be written or read ({error})", file=sys.stderr)
        return 1
    print(result() if left is None else f"time over in {left}; give the same command again")
    return 0


def add_common(parser: argparse.ArgumentParser, key: str = "KEY=VALUE") -> None:
    """The options of all commands that train; `key` is what `--set` takes."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumed")
    parser.add_argument("--minutes", type=float, help="stop with a checkpoint after so long")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that make batches; by default none on a CPU, all CPUs but one beside a GPU",
    )
    parser.add_argument("--limit", type=int, help="use at most so many tiles of each split")
    parser.add_argument(
        "--set", action="append", default=[], metavar=key, help="override; nested keys by dots"
    )


def read_config(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a YAML file, with `SECTION.KEY=VALUE` (or `SECTION.KEY.KEY=…`) put in.

    Raises:
        UsageError: it cannot be read, or an override does not fit in.
    """
    try:
        config = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"{file} cannot be read as YAML ({line})") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file}: holds no sections")
    for item in overrides:
        path, equals, value = item.partition("=")
        *outer, last = path.split(".")
        place = config
        for name in outer:
            place = place.setdefault(name, {}) if isinstance(place, dict) else None
        if not (equals and last and isinstance(place, dict)):
            raise UsageError(f"--set {item}: does not fit into {file}; give KEY=VALUE")
        place[last] = yaml.safe_load(value)
    return config


def build(config_type: type[T], values: dict[str, Any]) -> T:
    """A dataclass from plain values, nested ones included.

    Raises:
        TypeError: an unknown or missing key.
    """
    factories: dict[str, Any] = {
        f.name: f.default_factory
        for f in dataclasses.fields(config_type)  # type: ignore[arg-type]
    }
    nested: dict[str, Any] = {
        name: made for name, made in factories.items() if dataclasses.is_dataclass(made)
    }
    return config_type(**{k: build(nested[k], v) if k in nested else v for k, v in values.items()})
