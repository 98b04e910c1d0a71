"""The share of a cohort that one of several commands computes, as the tasks of an array do."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsisr.errors import OptionError, UsageError

T = TypeVar("T")

_REMEDY = "say which share this is by <shard> I/N"
_WITHOUT_TOTAL = {"PBS_ARRAY_INDEX": "PBS", "PBS_ARRAYID": "Torque", "LSB_JOBINDEX": "LSF"}
"""Number of an array's task where the system does not say how many there are -> the system."""


@dataclass(frozen=True)
class Shard:
    """One of the equal shares of a cohort.

    Attributes:
        index: which it is, from 1 to `count`.
        count: how many there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Reads a share from `I/N`.

    Args:
        text: the share's number, from 1 on, and how many there are.

    Returns:
        The share.

    Raises:
        OptionError: these are not two such numbers.
    """
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
    if not found:
        raise OptionError("shard", text, "must be I/N, for instance 1/8 for the first of eight")
    index, count = int(found[1]), int(found[2])
    if not 1 <= index <= count:
        raise OptionError("shard", text, "I counts from 1 to N; the first of eight is 1/8")
    return Shard(index, count)


def choose_shard(text: str | None, environ: Mapping[str, str]) -> Shard | None:
    """Gives the share that was asked for, else that of the array's task this process belongs to.

    Args:
        text: `I/N`, which wins; None asks for none.
        environ: the environment.

    Returns:
        The share; None is the whole cohort.

    Raises:
        UsageError: see `parse_shard` and `shard_from_environment`.
    """
    return shard_from_environment(environ) if text is None else parse_shard(text)


def shard_from_environment(environ: Mapping[str, str]) -> Shard | None:
    """Tells which task of an array of jobs this is, where Slurm or Grid Engine says so.

    Args:
        environ: the environment.

    Returns:
        The share; None outside of an array.

    Raises:
        UsageError: the task's number is known but not the number of tasks, or the other way round,
            or the numbers have gaps, so that shares would be left out.
    """
    if "SLURM_ARRAY_TASK_ID" in environ or "SLURM_ARRAY_TASK_COUNT" in environ:
        return _slurm(environ)
    if environ.get("SGE_TASK_ID", "undefined") != "undefined":
        return _grid_engine(environ)
    for name, system in _WITHOUT_TOTAL.items():
        # LSF numbers a job that is no array 0
        if environ.get(name, "0") != "0" or (name == "PBS_ARRAY_INDEX" and name in environ):
            raise UsageError(
                f"{name} is set, but {system} does not say how many tasks the array has; {_REMEDY}"
            )
    return None


def _slurm(environ: Mapping[str, str]) -> Shard:
    number = _whole(environ, "SLURM_ARRAY_TASK_ID")
    count = _whole(environ, "SLURM_ARRAY_TASK_COUNT", least=1)
    step = _whole(environ, "SLURM_ARRAY_TASK_STEP", least=1, default=1)
    least = _whole(environ, "SLURM_ARRAY_TASK_MIN", default=-1)
    most = _whole(environ, "SLURM_ARRAY_TASK_MAX", default=-1)
    if least >= 0:
        inside = least <= number <= least + (count - 1) * step and (number - least) % step == 0
        if not inside or (most >= 0 and most != least + (count - 1) * step):
            raise UsageError(
                f"the numbers of this Slurm array have gaps (task {number}, {count} tasks from "
                f"{least} on); {_REMEDY}"
            )
        return Shard((number - least) // step + 1, count)
    # any `count` numbers in a row have different remainders, wherever they begin
    return Shard(number // step % count + 1, count)


def _grid_engine(environ: Mapping[str, str]) -> Shard:
    number = _whole(environ, "SGE_TASK_ID")
    first = _whole(environ, "SGE_TASK_FIRST")
    last = _whole(environ, "SGE_TASK_LAST")
    step = _whole(environ, "SGE_TASK_STEPSIZE", least=1)
    if not first <= number <= last:
        raise UsageError(f"SGE_TASK_ID {number} is not from {first} to {last}; {_REMEDY}")
    return Shard((number - first) // step + 1, (last - first) // step + 1)


def _whole(
    environ: Mapping[str, str], name: str, least: int = 0, default: int | None = None
) -> int:
    """Reads a whole number of the environment; one that is missing must have a default."""
    text = environ.get(name)
    if text is None and default is not None:
        return default
    if text is None:
        raise UsageError(f"this is a task of an array, but {name} is not set; set it, or {_REMEDY}")
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < least:
        raise UsageError(f"{name} is {text!r} and no whole number from {least} on; {_REMEDY}")
    return int(text)


def take_shard(rows: Sequence[T], costs: Sequence[float] | None, shard: Shard | None) -> list[T]:
    """Takes a share of a list; the shares are disjoint and together the whole.

    Every command of a cohort must be given the same rows and costs.

    Args:
        rows: what is shared, in the same order everywhere.
        costs: what each takes, in any unit, for shares that take nearly as long as one another:
            each goes to the share that has least, the longest first (Graham 1969). None deals them
            out in turn; then one that is appended moves no other.
        shard: which share; None is the whole.

    Returns:
        The share, in the order of `rows`.

    Raises:
        ValueError: there are not as many costs as rows.
    """
    if costs is not None and len(costs) != len(rows):
        raise ValueError(f"{len(costs)} costs for {len(rows)} rows")
    if shard is None:
        return list(rows)
    if costs is None:
        return list(rows[shard.index - 1 :: shard.count])
    loads = [(0.0, 0, index) for index in range(1, shard.count + 1)]
    taken = []
    costly = ((-_usable(cost), position) for position, cost in enumerate(costs))
    for less, position in sorted(costly):
        load, number, index = loads[0]
        heapq.heapreplace(loads, (load - less, number + 1, index))
        if index == shard.index:
            taken.append(position)
    return [rows[position] for position in sorted(taken)]


def _usable(cost: float) -> float:
    """Takes what is not known, or cannot be, for nothing."""
    return cost if math.isfinite(cost) and cost > 0 else 0.0
