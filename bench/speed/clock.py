"""Measures time and memory for the programs of bench.speed."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

Task = Callable[[], object]


def wait_for_device() -> None:
    """Waits until a GPU that torch uses has done its work."""
    torch = sys.modules.get("torch")  # without it nothing can be under way
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(task: Task) -> float:
    """Returns the wall time of one call, the work of a GPU included."""
    began = time.perf_counter()
    task()
    wait_for_device()
    return time.perf_counter() - began


def take_turns(tasks: Mapping[str, Task], rounds: int) -> dict[str, list[float]]:
    """Returns the wall times of tasks that take turns, so that all see the same machine.

    Args:
        tasks: {name: task}.
        rounds: how often each runs, after one round that warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            spent = seconds(task)
            if turn:
                times[name].append(spent)
    return times


def median_seconds(tasks: Mapping[str, Task], rounds: int) -> dict[str, float]:
    """Returns the median of `take_turns` for each task."""
    return {name: statistics.median(t) for name, t in take_turns(tasks, rounds).items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute in one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def peak_rss_mb() -> float:
    """Returns the most memory that this process has had, MB (2^20 bytes).

    Raises:
        RuntimeError: the system is not Linux.
    """
    # ru_maxrss would carry over what the process that started this one had before exec
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM; this needs Linux")
