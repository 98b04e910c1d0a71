"""The command line the stages share: `python -m train.STAGE --config FILE --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import math
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from safetensors import SafetensorError

from train.data import TileSet, check_apart, load_tiles
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

    def splits(self, validation: int | None = None) -> tuple[TileSet, TileSet]:
        """The tiles of train/ and, `validation` at the most, of val/, which share no slide."""
        check_apart(self.data)
        return self.tiles("train"), self.tiles("val", validation)


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

    def work() -> None:
        values = read_config(args.config, [f"{section}.{item}" for item in args.set])
        if not isinstance(values.get(section), dict):
            raise UsageError(f"{args.config}: no section {section} in it")
        try:
            config = build(config_type, values[section])
        except (TypeError, UsageError) as error:
            raise UsageError(f"{args.config}, section {section}: {error}") from error
        with alone(args.out):
            fit(config, Run(args.data, args.out, args.minutes, args.limit, args.workers))

    return answer(work, args.out)


def answer(work: Callable[[], object], out: object) -> int:
    """Do the work of a command; what is expected to go wrong is one line on stderr.

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


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold `out` against other commands that write into it; the file `.lock` in it may stay.

    Of the processes of one training the first one holds it.

    Raises:
        UsageError: another process has it.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    try:
        import fcntl
    except ImportError:  # a system without it has to do without
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"{out}: another process works in it; wait for it to end or choose another --out"
            ) from error
        except OSError:  # a file system without locks
            pass
        yield


def in_slices(work: Callable[[], str | None], result: Callable[[], str], out: object) -> int:
    """Run a command that is given again until it is done, and say how far it is.

    Args:
        work: goes on; returns what is next, or None when all is done.
        result: what to say then.
        out: what it writes, for messages.

    Returns:
        The exit code; an expected failure is one line on stderr.
    """

    def slice_() -> None:
        left = work()
        print(result() if left is None else f"time over in {left}; give the same command again")

    return answer(slice_, out)


def add_common(parser: argparse.ArgumentParser, key: str = "KEY=VALUE") -> None:
    """The options of all commands that train; `key` is what `--set` takes."""
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumed")
    parser.add_argument("--minutes", type=minutes, help="stop with a checkpoint after so long")
    parser.add_argument("--threads", type=count, help="CPU threads of torch")
    parser.add_argument(
        "--workers",
        type=lambda text: count(text, 0),
        help="processes that make batches; by default none on a CPU, all CPUs but one beside a GPU",
    )
    parser.add_argument("--limit", type=count, help="use at most so many tiles of each split")
    parser.add_argument(
        "--set", action="append", default=[], metavar=key, help="override; nested keys by dots"
    )


def minutes(text: str) -> float:
    """A time for argparse: minutes, 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} minutes: must be 0 or more")
    return value


def count(text: str, least: int = 1) -> int:
    """A number of things for argparse."""
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"{text}: must be {least} or more")
    return value


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
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {item}: the value cannot be read as YAML") from error
    return config


def build(config_type: type[T], values: dict[str, Any], within: str = "") -> T:
    """A dataclass from plain values, nested ones included.

    Args:
        config_type: what is made.
        values: of its fields.
        within: the name of the field that it is for, for messages.

    Raises:
        TypeError: an unknown or missing key.
        UsageError: a value of another type, or one that does not do.
    """
    if not isinstance(values, dict):
        raise UsageError(f"{within} {values!r}: must be keys and values")
    hints = typing.get_type_hints(config_type)
    made = {
        key: fit_type(f"{within}.{key}".lstrip("."), value, hints[key]) if key in hints else value
        for key, value in values.items()
    }
    return config_type(**made)


def construct(network: Callable[..., T], arguments: Mapping[str, Any], where: str) -> T:
    """A network from the arguments that a config names.

    Raises:
        UsageError: they are not its arguments, or do not go together.
    """
    try:
        return network(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        line = str(error).strip().splitlines()[0]
        raise UsageError(f"{where}: no network can be made of it ({line})") from error


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def fit_type(name: str, value: Any, hint: Any) -> Any:
    """A value of YAML as what a field is declared to be.

    Raises:
        UsageError: it is something else.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, name)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return _fit_tuple(name, value, inner)
    if hint not in KINDS:
        if not isinstance(value, Mapping):
            raise UsageError(f"{name} {value!r}: must be keys and values")
        if inner[:1] == (int,):  # --set KEY.8.KEY makes text of it
            return {int(k) if str(k).isdigit() else k: v for k, v in value.items()}
        return value
    if hint is str and (value is None or value is False):  # as YAML reads nothing, and a bare no
        return ""
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):  # YAML 1.1 reads 1e-4 as text
            value = float(value)
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits or (hint is float and math.isnan(value)):
        raise UsageError(f"{name} {value!r}: must be {KINDS[hint]}")
    return value


def _fit_tuple(name: str, value: Any, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list whose items are of these types, or, with `...` behind it, all of one."""
    many = kinds[-1] is ...
    if not isinstance(value, list | tuple) or not (many or len(value) == len(kinds)):
        length = "" if many else f" of {len(kinds)}"
        raise UsageError(f"{name} {value!r}: must be a list{length}")
    return tuple(
        fit_type(f"{name}[{i}]", item, kinds[0] if many else kinds[i])
        for i, item in enumerate(value)
    )
