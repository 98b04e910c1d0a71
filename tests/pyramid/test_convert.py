"""Conversion without a model: copied tiles, scale, extras, resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from tests.pyramid.support import decode, picture, write
from wsisr import convert as module
from wsisr.convert import convert
from wsisr.errors import SlideError, UsageError
from wsisr.pyramid import PyramidSpec
from wsisr.slides import open_slide


def pixels_of(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, slide.width, slide.height)


def source(folder: Path, **options: object) -> Path:
    spec = PyramidSpec(700, 500, 0.25, 40, **{"tile": 64, "icc_profile": b"icc", **options})  # type: ignore[arg-type]
    return write(folder / "source.ome.tif", spec, picture(700, 500))


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_jpeg_tiles_are_copied_bit_for_bit(subsampling: str, tmp_path: Path) -> None:
    path = source(tmp_path, subsampling=subsampling)
    result = convert(path, tmp_path / "out.ome.tif", threads=2)
    assert result.copied_tiles == result.tiles == 88
    assert (result.mpp, result.magnification, result.levels) == (0.25, 40, 5)
    assert np.array_equal(decode(tmp_path / "out.ome.tif")[0], decode(path)[0])
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert file.pages.first.tags[34675].value == b"icc"


def test_reencoding_on_demand(tmp_path: Path) -> None:
    path = source(tmp_path)
    result = convert(path, tmp_path / "out.ome.tif", reencode=True, tile=128, compression="deflate")
    assert result.copied_tiles == 0
    assert np.array_equal(decode(tmp_path / "out.ome.tif")[0], decode(path)[0])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_to_zarr_is_exact(version: str, tmp_path: Path) -> None:
    path = source(tmp_path)
    result = convert(path, tmp_path / "out.ome.zarr", tile=128, zarr_version=version)
    assert result.copied_tiles == 0
    assert np.array_equal(decode(tmp_path / "out.ome.zarr")[0], decode(path)[0])


def test_associated_images_only_on_demand(tmp_path: Path) -> None:
    path = source(tmp_path, associated={"label": picture(40, 30), "macro": picture(80, 30)})
    convert(path, tmp_path / "without.ome.tif")
    convert(path, tmp_path / "with.ome.tif", associated=True)
    with open_slide(tmp_path / "without.ome.tif") as slide:
        assert not slide.associated
    with open_slide(tmp_path / "with.ome.tif") as slide:
        assert sorted(slide.associated) == ["label", "macro"]
        assert np.array_equal(slide.associated["label"], picture(40, 30))


def test_aperio_rgb_tiles_are_copied_and_read_by_openslide(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "slides" / "cmu-1-small-region.svs"
    out = tmp_path / "out.ome.tif"
    result = convert(path, out, threads=2)
    assert result.copied_tiles == result.tiles
    assert (result.mpp, result.magnification) == (0.499, 20)
    wanted = pixels_of(path)
    assert np.array_equal(decode(out)[0], wanted)
    with openslide.OpenSlide(out) as slide:
        got = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert np.abs(got.astype(int) - wanted).max() <= 2


def test_a_slide_without_pixel_size(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "slides" / "tcga-cr-7395-01a-01-ts1.svs"
    with pytest.raises(UsageError, match="--input-mpp"):
        convert(path, tmp_path / "out.ome.tif")
    assert list(tmp_path.iterdir()) == []
    assert convert(path, tmp_path / "out.ome.tif", magnification=20).mpp == 0.5


def test_an_unreadable_slide_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"broken\.svs"):
        convert(data_dir / "slides" / "broken.svs", tmp_path / "out.ome.tif")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out.ome.tif"

    def interrupt(done: int, tiles: int) -> None:
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, out, progress=interrupt)
    assert not out.exists()
    read = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module, "whole_jpeg", lambda data, head: read.append(1) or data[:2] + head + data[2:]
        )
        convert(path, out)
    # one more stands for the tile that the colour model is learnt from
    assert len(read) == 88 - 40 + 1
    whole = tmp_path / "whole.ome.tif"
    convert(path, whole)
    for got, wanted in zip(decode(out), decode(whole), strict=True):
        assert np.array_equal(got, wanted)
