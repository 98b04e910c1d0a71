"""The main job on a machine that has nothing of Linux, and on paths that people give to folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsisr
from tests.processes import python

CHILD = """
import json, os, sys
import psutil  # has a module of its own for each system; on Linux it needs what is hidden here
for module in ("fcntl", "resource"):
    sys.modules[module] = None
for name in ("fork", "forkpty", "sched_getaffinity", "sched_setaffinity"):
    if hasattr(os, name):
        delattr(os, name)
from pathlib import Path
import wsisr

source, folder = map(Path, sys.argv[1:])
facts = {}

def run(name, suffix, progress=None, **options):
    result = wsisr.upscale(
        source, folder / (name + suffix), scale=4, input_mag=10, window=128, overlap=32, tile=64,
        tissue="off", compression="deflate", device="cpu", progress=progress, **options,
    )
    facts[name] = [result.width, result.height, result.resumed_tiles]
    assert result.peak_rss_mb > 1

def stop(state):
    if state.done == 10:
        raise KeyboardInterrupt

try:
    run("resumed", ".ome.tif", stop, model="bicubic")
except KeyboardInterrupt:
    assert not (folder / "resumed.ome.tif").exists()
run("resumed", ".ome.tif", model="bicubic")
run("whole", ".ome.tif", model="bicubic")
run("zarr", ".ome.zarr", model="bicubic")
run("tiny", ".ome.tif", model="tiny", steps=1, region=wsisr.Rect(0, 0, 24, 20))
json.dump(facts, sys.stdout)
"""
"""The main job where everything that other systems lack was taken away before it was imported."""

NAMES = ["plain", "with spaces", "ünïcödé 组织 ελ"]
if sys.platform != "win32":
    NAMES.append("back\\slash \\n")


def save_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(80, 200, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Folder and facts of the outputs that were made without what Linux alone has."""
    folder = tmp_path_factory.mktemp("elsewhere")
    source = folder / "in.png"
    save_picture(source)
    done = python(CHILD, source, folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_main_job_needs_nothing_of_linux(elsewhere: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = elsewhere
    assert facts["whole"] == facts["zarr"] == [360, 280, 0]
    assert facts["tiny"] == [96, 80, 0]
    assert tifffile.imread(folder / "tiny.ome.tif").shape == (80, 96, 3)
    wanted = {"in.png", "resumed.ome.tif", "whole.ome.tif", "zarr.ome.zarr", "tiny.ome.tif"}
    assert {file.name for file in folder.iterdir()} == wanted


def test_an_interrupted_job_goes_on_without_linux(elsewhere: tuple[Path, dict[str, Any]]) -> None:
    folder, facts = elsewhere
    assert facts["resumed"][2] > 0
    resumed, whole = (tifffile.imread(folder / f"{name}.ome.tif") for name in ("resumed", "whole"))
    np.testing.assert_array_equal(resumed, whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_paths_may_have_any_name(tmp_path: Path, name: str, suffix: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    source, first, second = (folder / f"{name}{end}" for end in (".png", suffix, f" again{suffix}"))
    save_picture(source)
    result = wsisr.upscale(source, first, scale=4, input_mag=10, model="bicubic", tile=64)
    assert result.output == str(first)
    with wsisr.open_slide(first) as slide:
        assert (slide.levels[0].width, slide.levels[0].height) == (360, 280)
    assert Path(wsisr.convert(first, second, tile=64).output) == second
    assert set(folder.iterdir()) == {source, first, second}
