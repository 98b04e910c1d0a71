from __future__ import annotations

import json
from pathlib import Path

import pytest
import tifffile

from bench.speed.scaleout import h200_seconds, main
from tests.engine.support import tissue_like
from tests.scaleout.conftest import forked

__all__ = ["forked"]


@pytest.mark.usefixtures("forked")
def test_devices_that_sleep_are_fed(tmp_path: Path) -> None:
    slide, figures = tmp_path / "in.tif", tmp_path / "figures.json"
    tifffile.imwrite(
        slide, tissue_like(150, 110), photometric="rgb", tile=(64, 64),
        resolution=(10_000, 10_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    arguments = ["--slide", slide, "--scale", 4, "--workers", 0, "--devices", 2, "--steps", 1]
    assert main([str(each) for each in (*arguments, "--window", 128, "--json", figures)]) == 0
    found = json.loads(figures.read_text())
    assert 0 < found["2 devices, 1 steps: efficiency"] <= 1
    assert found["2 devices, 1 steps: s a window"] == pytest.approx(h200_seconds(1))
    assert found["limit of the parent: MPix/s"] > 0
