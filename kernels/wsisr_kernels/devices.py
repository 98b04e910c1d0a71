"""Where a kernel can run."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch


@cache
def has_triton() -> bool:
    """Tells whether Triton can be imported; without it CUDA is served by torch or the CPU."""
    return importlib.util.find_spec("triton") is not None


def uses_triton(device: torch.device) -> bool:
    """Tells whether the dispatch functions run Triton on `device` (CUDA and ROCm with Triton)."""
    return device.type == "cuda" and has_triton()
