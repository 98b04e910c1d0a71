"""Batches as functions of the iteration, made ahead of time.

A batch is a pure function of (seed, iteration, part): a resumed run sees the very crops that an
uninterrupted one would have seen, and nothing about the data position needs to be stored. The
parts of a global batch are numbered over processes and accumulation steps, so two GPUs see what
one GPU with two accumulation steps sees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from itertools import count
from typing import Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

T = TypeVar("T")
_batch_part: ContextVar[int] = ContextVar("part of the global batch", default=0)


def batch_part() -> int:
    """Gives the part of the global batch that is being made; the loop sets it, else it is 0."""
    return _batch_part.get()


def set_batch_part(value: int) -> None:
    """Sets the part of the global batch that follows."""
    _batch_part.set(value)


def batch_rng(seed: int, iteration: int, part: int | None = None) -> np.random.Generator:
    """Makes the generator of one part of an iteration's batch.

    Args:
        seed: of the training.
        iteration: counted from 0.
        part: of the global batch; by default the present one.
    """
    return np.random.default_rng((seed, iteration, batch_part() if part is None else part))


class Feed(Generic[T]):
    """The batches a training asks for, made ahead of time by processes of their own.

    A batch is a pure function of (iteration, part), so who makes it, and how many do, changes
    nothing but the time. A GPU asks faster than one Python process can crop and degrade.
    """

    def __init__(self, make: Callable[[int], T], workers: int, parts: int = 1) -> None:
        """Sets the feed up; nothing is made yet.

        Args:
            make: iteration -> the present part's batch, of tensors; it can be pickled.
            workers: processes; with 0 a batch is made when it is asked for.
            parts: accumulation steps of this process.
        """
        self._make, self._workers, self._parts = make, workers, parts
        self._keys: Iterator[tuple[int, int]] = iter(())
        self._batches: Iterator[T] = iter(())
        self._next: tuple[int, int] | None = None
        self._last: tuple[tuple[int, int], T] | None = None

    def __call__(self, iteration: int) -> T:
        """Gives the batch of this iteration and the present part, in pinned memory beside a GPU."""
        if not self._workers:
            # a step runs under autocast; the worker processes do not, and images need more than
            # half precision anyway
            with torch.autocast("cpu", enabled=False):
                return self._make(iteration)
        here = (iteration, batch_part())
        if self._last is not None and self._last[0] == here:
            return self._last[1]  # asked for a second time: the processes are ahead already
        if self._next != here:
            self._start(here)
        batch = next(self._batches)
        self._next, self._last = next(self._keys), (here, batch)
        return batch

    def _start(self, here: tuple[int, int]) -> None:
        """Starts the processes at one (iteration, part)."""
        loader: DataLoader[T] = DataLoader(
            _BatchDataset(self._make),
            batch_size=None,
            sampler=_PartSampler(here, self._parts),
            num_workers=self._workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_process_group,
        )
        self._batches, self._keys = iter(loader), iter(_PartSampler(here, self._parts))
        next(self._keys)


def _leave_process_group(worker: int) -> None:
    """Takes a worker out of the group that Ctrl-C and the like go to: the training ends it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()


class _BatchDataset(Dataset[T]):
    """Batches by (iteration, part), as a DataLoader asks for them."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self.make = make

    def __getitem__(self, key: tuple[int, int]) -> T:
        iteration, position = key
        set_batch_part(position)
        return self.make(iteration)


class _PartSampler(Sampler[tuple[int, int]]):
    """Yields (iteration, part) in the order of the loop, from one of them on, without end."""

    def __init__(self, first: tuple[int, int], parts: int) -> None:
        self.first, self.parts = first, parts

    def __iter__(self) -> Iterator[tuple[int, int]]:
        first, position = self.first
        base = position - position % self.parts
        for iteration in count(first):
            yield from ((iteration, number) for number in range(position, base + self.parts))
            position = base
