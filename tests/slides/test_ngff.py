"""OME-Zarr as input, written with zarr-python alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsisr.errors import SlideError
from wsisr.slides import open_slide

zarr = pytest.importorskip("zarr", reason="zarr is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 150, 200), np.uint8)


def write(path: Path, version: str, axes: str = "cyx") -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    levels = [PIXELS, PIXELS[:, ::2, ::2]]
    for name, level in enumerate(levels):
        data = level.transpose(["cyx".index(axis) for axis in axes])
        chunks = tuple(3 if axis == "c" else 64 for axis in axes)
        array = group.create_array(str(name), shape=data.shape, chunks=chunks, dtype="uint8")
        array[...] = data
    multiscale = {
        "axes": [
            {"name": axis} if axis == "c" else {"name": axis, "unit": "micrometer"} for axis in axes
        ],
        "datasets": [
            {
                "path": str(name),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1 if a == "c" else 0.5 * 2**name for a in axes]}
                ],
            }
            for name in range(2)
        ],
    }
    content = {"multiscales": [multiscale]}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": version, **content}})


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "yxc"])
def test_both_versions(tmp_path: Path, version: str, axes: str) -> None:
    write(tmp_path / "a.ome.zarr", version, axes)
    with open_slide(tmp_path / "a.ome.zarr") as slide:
        assert (slide.vendor, slide.mpp, slide.width, slide.height) == ("ome-zarr", 0.5, 200, 150)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        expected = PIXELS.transpose(1, 2, 0)
        np.testing.assert_array_equal(slide.read(0, 33, 20, 100, 90), expected[20:110, 33:133])
        np.testing.assert_array_equal(slide.read(1, 0, 0, 100, 75), expected[::2, ::2])
        assert (slide.read(0, -5, 0, 5, 5) == 255).all()


def test_a_missing_chunk_is_fill_and_a_corrupt_one_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.zarr"
    write(path, "0.4")
    chunks = sorted(
        file for file in (path / "0").rglob("*") if file.is_file() and "0.0" in file.name
    )
    chunks[0].unlink()
    with open_slide(path) as slide:
        assert (slide.read(0, 0, 0, 64, 64) == 0).all()
    chunks[1].write_bytes(b"not a chunk")
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"a\.ome\.zarr: level 0"):
        slide.read(0, 0, 0, 200, 150)
    unreadable: set[tuple[str, int, int]] = set()
    expected = PIXELS.transpose(1, 2, 0).copy()
    expected[:64, :64] = 0
    expected[:64, 64:128] = 255
    with open_slide(path, unreadable=unreadable) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 200, 150), expected)
    assert unreadable == {("level 0", 1, 0)}


def test_what_is_no_image(tmp_path: Path) -> None:
    zarr.open_group(str(tmp_path / "bare.zarr"), mode="w")
    (tmp_path / "bad.zarr").mkdir()
    (tmp_path / "bad.zarr" / "zarr.json").write_text("{")
    for name in ("bare.zarr", "bad.zarr"):
        with pytest.raises(SlideError, match=name):
            open_slide(tmp_path / name)
