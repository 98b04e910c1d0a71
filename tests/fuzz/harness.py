"""Runs a parser on changed inputs in a child, whose time and memory are bounded."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.parsers import Parser

LIMIT_BYTES = 1 << 30
LIMIT_SECONDS = 5.0
"""Of the processor, so that other programs make nothing too slow."""
MOST_FAULTS = 20
SHARED = 1 << 20


@dataclass
class Found:
    """What became of the inputs of a parser.

    Attributes:
        inputs: how many were parsed.
        refused: how many of them were refused.
        slowest: seconds of the slowest.
        faults: what else happened, with the input; one for each place in the code.
    """

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    faults: dict[str, str] = field(default_factory=dict)


class TooSlowError(BaseException):
    """An input that takes too long; nothing may catch it."""


def inputs_of(parser: Parser, seed: int, seconds: float, most: int) -> Iterator[bytes]:
    """Yields changed inputs until the time is over."""
    yield from parser.seeds
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end and number < most:
        random = Random(f"{seed} {parser.name} {number}")
        yield parser.mutate(random.choice(parser.seeds), random)
        number += 1


def fuzz(parser: Parser, seed: int, seconds: float, most: int = 1 << 62) -> Found:
    """Parses changed inputs in a child; a child that dies is a fault, too."""
    with mmap.mmap(-1, SHARED) as shared:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            try:
                told = vars(_in_child(parser, seed, seconds, most, shared))
            except BaseException:
                told = vars(Found(faults={"harness": traceback.format_exc()}))
            with os.fdopen(writing, "w") as pipe:
                json.dump(told, pipe)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status, usage = os.wait4(pid, 0)
        if status or not text:
            length = int.from_bytes(shared[:8], "little")
            return Found(faults={f"died with {status}": repr(shared[8 : 8 + length])})
        found = Found(**json.loads(text))
    if usage.ru_maxrss * 1024 > _own_bytes(1) + LIMIT_BYTES:
        found.faults["memory"] = f"{usage.ru_maxrss >> 10} MB"
    return found


def _in_child(parser: Parser, seed: int, seconds: float, most: int, shared: mmap.mmap) -> Found:
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    limit = _own_bytes(0) + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGPROF, _too_slow)
    found = Found()
    for data in inputs_of(parser, seed, seconds, most):
        kept = data[: SHARED - 8]
        shared[: 8 + len(kept)] = len(kept).to_bytes(8, "little") + kept
        begun = time.monotonic()
        found.inputs += 1
        try:
            signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
            try:
                parser.run(data)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except parser.allowed as error:
            found.refused += 1
            if "\n" in str(error) or len(str(error)) > 8000:
                found.faults.setdefault("not one line", repr(str(error))[:300] + repr(data[:300]))
        except BaseException as error:
            found.faults.setdefault(_place_of(error), repr(data[:600]))
        found.slowest = max(found.slowest, time.monotonic() - begun)
        if len(found.faults) >= MOST_FAULTS:
            break
    return found


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlowError


def _place_of(error: BaseException) -> str:
    """Names an error by where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "wsisr" in frame.filename] or frames
    text = ""
    with contextlib.suppress(Exception):
        text = str(error)[:100]
    return f"{type(error).__name__} at {own[-1].filename}:{own[-1].lineno} ({text})"


def _own_bytes(column: int) -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 -- no path of the user's
        return int(file.read().split()[column]) * resource.getpagesize()


def as_table(found: dict[str, Found]) -> str:
    """Gives the counts by parser as text."""
    rows: list[tuple[Any, ...]] = [("parser", "inputs", "refused", "slowest, s", "faults")]
    rows += [(n, f.inputs, f.refused, f"{f.slowest:.2f}", len(f.faults)) for n, f in found.items()]
    rows.append(("all", sum(f.inputs for f in found.values()),
                 sum(f.refused for f in found.values()),
                 f"{max((f.slowest for f in found.values()), default=0.0):.2f}",
                 sum(len(f.faults) for f in found.values())))  # fmt: skip
    return "\n".join(f"{r[0]:<38}{r[1]:>10}{r[2]:>10}{r[3]:>12}{r[4]:>8}" for r in rows)
