from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from bench.speed.__main__ import main
from bench.speed.start import commands, run_once
from wsisr.errors import WsisrError


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 10x."""
    path = tmp_path_factory.mktemp("slide") / "in.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(128, 128), resolution=(10_000, 10_000), resolutionunit="CENTIMETER"
    )
    return path


def test_every_command_ends_as_it_should(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.json"
    assert main(["start", "--slide", str(slide), "--rounds", "1", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    names = {name.removesuffix("_cpu_s") for name in figures if name.endswith("_cpu_s")}
    assert names == set(commands(slide, tmp_path))
    assert all(value > 0 for value in figures.values())
    # telling a mistake must not cost what computing does
    assert figures["wrong_option_modules"] < figures["bicubic_modules"] / 2


def test_a_command_that_ends_otherwise_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WsisrError, match="does not exist"):
        run_once(["info", str(tmp_path / "missing.svs")], 0)
