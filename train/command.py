"""The command line the stages share: `python -m train.STAGE --config FILE --data DIR --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
import yaml

from wsisr.errors import WsisrError

T = TypeVar("T")


def parse(description: str, section: str, config_type: type[T]) -> tuple[argparse.Namespace, T]:
    """Read arguments and one section of the YAML config into its dataclass.

    Raises:
        SystemExit: wrong arguments, or a config key that the dataclass does not have.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and val/")
    parser.add_argument("--out", type=Path, required=True, help="folder of this run; resumed")
    parser.add_argument("--minutes", type=float, help="stop with a checkpoint after so long")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--limit", type=int, help="use at most so many tiles of each split")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override; loop.KEY too"
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    sys.excepthook = _one_line
    try:
        values = yaml.safe_load(args.config.read_text())[section]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        parser.error(f"{args.config}: no section {section} can be read from it ({error})")
    for item in args.set:
        key, _, value = item.partition("=")
        place = values
        *outer, last = key.split(".")
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = yaml.safe_load(value)
    try:
        return args, build(config_type, values)
    except TypeError as error:
        parser.error(f"{args.config}, section {section}: {error}")


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Expected failures are one line; anything else is a defect and shows where it happened."""
    if isinstance(error, WsisrError):
        print(f"error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


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
