"""Where a model computes and in which precision, told without torch where that can be."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisr.errors import OptionError

if TYPE_CHECKING:
    import torch

GPU_DRIVERS = ("nvidiactl", "nvmap", "kfd", "dxg")
"""What the drivers of CUDA, Jetson, ROCm and Windows' subsystem put into /dev on Linux."""
DEV, CPUINFO = Path("/dev"), Path("/proc/cpuinfo")
FAST_BF16 = ("avx512_bf16", "amx_bf16")
"""Instructions of a CPU, as Linux and torch call them."""


def name_device(device: str | None) -> str:
    """Names the device that `pick_device` picks; the CPU is found without importing torch.

    Args:
        device: see `pick_device`.

    Raises:
        OptionError: see `pick_device`.
    """
    if device == "cpu" or (device is None and not may_have_gpu()):
        return "cpu"
    return str(pick_device(device))


def may_have_gpu() -> bool:
    """Tells whether torch must be asked for a GPU: on Linux a driver would have files in /dev."""
    return sys.platform != "linux" or any((DEV / name).exists() for name in GPU_DRIVERS)


def pick_device(device: str | None) -> torch.device:
    """Picks the device asked for, by default the first GPU, else Apple's, else the CPU.

    Args:
        device: a name of torch's, for instance `cuda:1`; None for the default.

    Returns:
        A device that this machine has.

    Raises:
        OptionError: no such device on this machine.
    """
    import torch

    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type != "cuda":
            torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise OptionError("device", device, f"not usable on this machine ({line})") from error
    # counted, for a tensor there would take the GPU's memory in a process that computes nothing
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise OptionError("device", device, f"not usable on this machine ({count} CUDA devices)")
    return chosen


def usual_precision(device: str) -> str:
    """Names bf16 where it is fast, on GPUs and on CPUs with instructions for it, and else fp32.

    Args:
        device: a name of torch's.
    """
    kind = device.partition(":")[0]
    if kind == "cuda":
        return "bf16"
    return "bf16" if kind == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    try:
        flags = re.search(r"^flags\s*:(.*)$", CPUINFO.read_text(encoding="utf-8"), re.M)
    except OSError:
        flags = None
    if flags is not None:
        return not set(FAST_BF16).isdisjoint(flags[1].split())
    import torch

    # torch before 2.10 cannot tell
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(name) for name in FAST_BF16)
