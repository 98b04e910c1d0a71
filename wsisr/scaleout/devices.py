"""Which devices and how many CPU cores this process may use, on a machine that others use too."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from wsisr.errors import OptionError
from wsisr.models import may_have_gpu, name_device

if TYPE_CHECKING:
    import torch

CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY = Path("/sys/fs/cgroup")
SLURM_CPUS = "SLURM_CPUS_PER_TASK"


def usable_cores() -> int:
    """Counts the cores that this process may use, at least one.

    The least of what its CPU affinity, its control group's quota and Slurm allow.
    """
    try:
        allowed = len(psutil.Process().cpu_affinity() or ()) or os.cpu_count() or 1
    except AttributeError:  # macOS has no affinity
        allowed = os.cpu_count() or 1
    limits = [allowed]
    try:
        quota, period = CGROUP_QUOTA.read_text().split()
        limits.append(int(quota) // int(period))
    except (OSError, ValueError):
        pass  # no control group, or no quota in it
    if os.environ.get(SLURM_CPUS, "").isdigit():
        limits.append(int(os.environ[SLURM_CPUS]))
    return max(1, min(limits))


def usable_memory() -> int:
    """Gives the bytes of memory that are free for this process: the machine's, its group's."""
    free = int(psutil.virtual_memory().available)
    try:
        most = int((CGROUP_MEMORY / "memory.max").read_text())
        used = int((CGROUP_MEMORY / "memory.current").read_text())
        reclaimed = re.search(
            r"^inactive_file (\d+)", (CGROUP_MEMORY / "memory.stat").read_text(), re.M
        )
    except (OSError, ValueError):
        return free  # no control group, or no limit in it
    cached = int(reclaimed[1]) if reclaimed else 0
    return max(0, min(free, most - used + cached))


def choose_devices(
    gpus: str | None, workers: int | None, device: str | None
) -> tuple[torch.device, ...]:
    """Chooses the device of each worker.

    Args:
        gpus: numbers of GPUs as `0,1`, or `all`; None leaves the choice to `device`.
        workers: how many workers share the devices; None is one each.
        device: torch device without `gpus`; None as `pick_device` has it.

    Raises:
        OptionError: a device that is not there, options that contradict each other, or more workers
            on the CPU than cores.
    """
    import torch

    return tuple(map(torch.device, name_devices(gpus, workers, device)))


def name_devices(gpus: str | None, workers: int | None, device: str | None) -> tuple[str, ...]:
    """Names what `choose_devices` chooses; torch is asked only where there may be a GPU.

    Args:
        gpus: see `choose_devices`.
        workers: see `choose_devices`.
        device: see `choose_devices`.

    Raises:
        OptionError: see `choose_devices`.
    """
    if workers is not None and workers < 1:
        raise OptionError("workers", workers, "must be 1 or more")
    if gpus is not None:
        if device is not None:
            raise OptionError("gpus", gpus, f"contradicts <device> {device}; give one of them")
        chosen = tuple(f"cuda:{number}" for number in _gpu_numbers(gpus))
    else:
        chosen = (name_device(device),)
    count = len(chosen) if workers is None else workers
    if chosen[0] == "cpu" and count > usable_cores():
        rule = f"this process may use {usable_cores()} CPU cores; give at most as many"
        raise OptionError("workers", count, rule)
    if count < len(chosen):
        raise OptionError("workers", count, f"is less than the {len(chosen)} GPUs of <gpus>")
    return tuple(chosen[number % len(chosen)] for number in range(count))


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _gpu_numbers(gpus: str) -> list[int]:
    there = _count_gpus() if may_have_gpu() else 0
    if not there:
        raise OptionError("gpus", gpus, "this machine has no CUDA device; leave <gpus> out")
    if gpus == "all":
        return list(range(there))
    parts = gpus.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise OptionError("gpus", gpus, "must be numbers as 0,1 or all")
    numbers = [int(part) for part in parts]
    if missing := [number for number in numbers if number >= there]:
        rule = f"there is no GPU {missing[0]}; this machine has 0 to {there - 1}"
        raise OptionError("gpus", gpus, rule)
    return numbers
