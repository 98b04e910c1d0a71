"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# each command would start a process that decodes, for seconds; tests/slides/test_isolated.py does
os.environ.setdefault("WSISR_TRUST_INPUT", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the H&E data package (`WSISR_DATA`, else ../shared/data beside the checkout)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WSISR_DATA", default))
    if not (folder / "slides").is_dir():
        pytest.skip(f"no H&E data package at {folder}; set WSISR_DATA to its folder")
    return folder
