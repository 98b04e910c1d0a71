"""The Triton versions: on a GPU where there is one, else under Triton's interpreter."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def triton_version(device: torch.device) -> Iterator[Callable[[str], ModuleType]]:
    """Import a kernel's Triton module by the kernel's name."""
    pytest.importorskip("triton", reason="Triton is not installed")
    with pytest.MonkeyPatch.context() as patch:
        if device.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield lambda name: importlib.import_module(f"wsisr_kernels.{name}.gpu")
