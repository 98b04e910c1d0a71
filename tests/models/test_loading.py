"""Devices, and what importing and loading brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wsisr.errors import OptionError
from wsisr.models import pick_device


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_first_gpu_then_apples_then_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device(None) == torch.device(chosen)
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(OptionError, match="not usable on this machine") as raised:
        pick_device(name)
    assert (raised.value.option, raised.value.value) == ("device", name)
    assert "\n" not in str(raised.value)


def heavy_modules(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has imported after some code."""
    heavy = ("torch", "diffusers", "numba", "pydantic")
    code += f"\nimport sys; print(*(n for n in {heavy} if n in sys.modules))"
    code += "\nprint(*(n for n in sys.modules if 'unet_2d_condition' in n or 'controlnets' in n))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return set(done.stdout.split())


def test_the_faces_import_nothing_heavy() -> None:
    faces = (
        "wsisr.models",
        "wsisr.models.files",
        "wsisr.models.networks",
        "wsisr.models.published",
    )
    assert heavy_modules(f"import {', '.join(faces)}") == set()


def test_stage_1_alone_brings_no_unet_along() -> None:
    code = "from wsisr.models import load_upscaler; load_upscaler('plain')"
    found = heavy_modules(code)
    assert "torch" in found
    assert not [name for name in found if name.startswith("diffusers.models")]
