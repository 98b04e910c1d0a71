"""Where a kernel can run."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch


@cache
def has_triton() -> bool:
    """Whether the Triton versions can be imported; without them CUDA falls back to torch."""
    return importlib.util.find_spec("triton") is not None


def uses_triton(device: torch.device) -> bool:
    """Whether the dispatch functions run Triton on `device` (CUDA and ROCm with Triton)."""
    return device.type == "cuda" and has_triton()
