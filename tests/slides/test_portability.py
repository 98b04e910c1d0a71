"""Slides are read the same way on every system, and without heavy libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from wsisr.slides import describe_slide, open_slide

PIXELS = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
NAMES = ["two words.x", "Ätzung größer 40×.x", "肝臓.x", "it's 100% #1 [a] {b}.x"] + (
    ["back\\slash.x"] if os.name == "posix" else []
)
HEAVY = {"torch", "diffusers", "numba", "skimage", "scipy", "zarr", "tifffile", "cv2"}


def write(path: Path) -> None:
    if path.suffix == ".png":
        Image.fromarray(PIXELS).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", compression="zlib")
    else:
        group = zarr.open_group(str(path), mode="w", zarr_format=3)
        array = group.create_array("0", shape=PIXELS.shape, chunks=(64, 64, 3), dtype="uint8")
        array[...] = PIXELS
        multiscale = {"axes": [{"name": n} for n in "yxc"], "datasets": [{"path": "0"}]}
        group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
@pytest.mark.parametrize("name", NAMES)
def test_paths_may_have_any_characters(name: str, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = folder / name.replace(".x", suffix)
    write(path)
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (200, 150)
        np.testing.assert_array_equal(slide.read(0, 10, 20, 100, 90), PIXELS[20:110, 10:110])
    assert describe_slide(path)["file"] == str(path)


@pytest.mark.parametrize("name", NAMES)
def test_openslide_takes_such_paths_too(name: str, data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "slides" / "multi_frame_jpeg_camelyon_challenge_image.dcm"
    folder = tmp_path / name
    folder.mkdir()
    path = folder / name.replace(".x", ".dcm")
    shutil.copy(source, path)
    with open_slide(path) as slide, open_slide(source) as original:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 64, 64), original.read(0, 0, 0, 64, 64))


def test_threads_share_a_file_where_there_is_no_read_by_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread", raising=False)
    write(tmp_path / "a.tif")
    places = [(x, y) for y in range(0, 120, 8) for x in range(0, 160, 8)]
    with open_slide(tmp_path / "a.tif", cache_bytes=0) as slide, ThreadPoolExecutor(8) as threads:
        found = threads.map(lambda place: slide.read(0, *place, 30, 30), places)
        for (x, y), pixels in zip(places, found, strict=True):
            np.testing.assert_array_equal(pixels, PIXELS[y : y + 30, x : x + 30])


def test_describing_a_slide_loads_no_heavy_library(tmp_path: Path) -> None:
    write(tmp_path / "a.tif")
    program = (
        "import sys; from wsisr.slides import describe_slide; describe_slide(sys.argv[1]);"
        f"sys.exit(', '.join({HEAVY!r} & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.tif")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
