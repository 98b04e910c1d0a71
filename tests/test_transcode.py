"""Conversion without a model: copied tiles, scale, extras, resume."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from click.testing import CliRunner
from PIL import ImageCms

from tests.pyramid.support import decode, picture, write
from wsisr import transcode as module
from wsisr.cli import cli
from wsisr.errors import SlideError, UsageError
from wsisr.formats import Photometric
from wsisr.progress import State
from wsisr.pyramid import PyramidSpec
from wsisr.slides import open_slide
from wsisr.transcode import convert

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels_of(path: Path) -> np.ndarray:
    with open_slide(path) as slide:
        return slide.read(0, 0, 0, slide.width, slide.height)


def source(folder: Path, **options: object) -> Path:
    spec = PyramidSpec(700, 500, 0.25, 40, **{"tile": 64, "icc_profile": ICC, **options})  # type: ignore[arg-type]
    return write(folder / "source.ome.tif", spec, picture(700, 500))


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_jpeg_tiles_are_copied_bit_for_bit(subsampling: str, tmp_path: Path) -> None:
    path = source(tmp_path, subsampling=subsampling)
    result = convert(path, tmp_path / "out.ome.tif", threads=2)
    assert result.copied_tiles == result.tiles == 88
    assert (result.mpp, result.magnification, result.levels) == (0.25, 40, 5)
    assert np.array_equal(decode(tmp_path / "out.ome.tif")[0], decode(path)[0])
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert file.pages.first.tags[34675].value == ICC


def test_tiles_of_a_turned_image_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "turned.tif"
    tifffile.imwrite(
        path, picture(512, 512), photometric="ycbcr", subsampling=(2, 2), compression="jpeg",
        tile=(256, 256), extratags=[(274, 3, 1, 3, True)],
    )  # fmt: skip
    result = convert(path, tmp_path / "out.ome.tif", input_mpp=0.25, threads=2)
    assert result.copied_tiles == 0
    luma = [image.mean(axis=2).ravel() for image in (
        decode(tmp_path / "out.ome.tif")[0], tifffile.imread(path)[::-1, ::-1],
    )]  # fmt: skip
    assert np.corrcoef(luma)[0, 1] > 0.9


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


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_there_and_back(version: str, tmp_path: Path) -> None:
    """TIFF to Zarr to lossless TIFF: pixels, scale and colour profile survive."""
    path = source(tmp_path)
    convert(path, tmp_path / "mid.ome.zarr", tile=128, zarr_version=version)
    back = convert(tmp_path / "mid.ome.zarr", tmp_path / "back.ome.tif", compression="zstd")
    assert (back.mpp, back.magnification) == (0.25, 40)
    assert np.array_equal(decode(tmp_path / "back.ome.tif")[0], decode(path)[0])
    with open_slide(tmp_path / "back.ome.tif") as slide:
        assert slide.icc_profile == ICC


def stored_range(path: Path, index: int) -> tuple[int, int]:
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        return page.dataoffsets[index], page.databytecounts[index]


def test_a_damaged_tile_stops_the_conversion_or_is_listed(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out.ome.tif"
    whole = pixels_of(path)
    offset, length = stored_range(path, 11 + 3)
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)
    with pytest.raises(SlideError, match=r"source\.ome\.tif: level 0, tile column 3 row 1"):
        convert(path, out)
    # the same command, told to go on, takes over what is done
    result = convert(path, out, on_tile_error="blank")
    assert result.damaged_source_tiles == 1
    pixels = decode(out)[0]
    assert (pixels[64:128, 192:256] == 255).all()
    pixels[64:128, 192:256] = whole[64:128, 192:256]
    assert np.array_equal(pixels, whole)
    xml = tifffile.TiffFile(out).ome_metadata or ""
    assert '"damaged_source_tiles": [["level 0", 3, 1]]' in xml


def test_damage_is_listed_whole_after_an_interruption(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out.ome.tif"
    offset, length = stored_range(path, 0)
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)

    def interrupt(state: State) -> None:
        if state.done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, out, on_tile_error="blank", progress=interrupt)
    assert convert(path, out, on_tile_error="blank").damaged_source_tiles == 1
    assert '["level 0", 0, 0]' in (tifffile.TiffFile(out).ome_metadata or "")


@pytest.mark.parametrize(
    ("level", "subsampling", "shape"), [(85, "422", (64, 64)), (85, "420", (56, 64))]
)
def test_a_tile_unlike_the_others_is_encoded_again(
    level: int, subsampling: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    """Streams of another subsampling, or smaller than their tile, are no tiles of our output."""
    path, out = source(tmp_path), tmp_path / "out.ome.tif"
    rows = 500 - 7 * 64
    strange = imagecodecs.jpeg8_encode(
        picture(64, shape[0]), level=level, outcolorspace="ycbcr", subsampling=subsampling
    )
    index = 7 * 11 + 3
    with path.open("ab") as file:
        place = file.tell()
        file.write(strange)
    with tifffile.TiffFile(path, mode="r+b") as file:
        tags = file.pages.first.tags
        offsets, lengths = list(tags[324].value), list(tags[325].value)
        offsets[index], lengths[index] = place, len(strange)
        tags[324].overwrite(offsets)
        tags[325].overwrite(lengths)
    result = convert(path, out)
    assert result.copied_tiles == result.tiles - 1
    with tifffile.TiffFile(out) as file:
        page = file.pages.first
        file.filehandle.seek(page.dataoffsets[index])
        stream = file.filehandle.read(page.databytecounts[index])
    assert module._kind(stream, Photometric.YCBCR) == ("420", 64, 64)
    got = decode(out)[0][-rows:, 192:256].astype(int)
    assert np.abs(got - pixels_of(path)[-rows:, 192:256]).mean() < 4


@pytest.mark.parametrize(
    ("given", "wanted"), [({"input_mpp": 0.5}, (0.5, 20)), ({"input_mag": 10}, (1.0, 10))]
)
def test_a_stated_resolution_replaces_both(
    given: dict[str, float], wanted: tuple[float, float], tmp_path: Path
) -> None:
    result = convert(source(tmp_path), tmp_path / "out.ome.tif", **given)
    assert (result.mpp, result.magnification) == wanted
    with pytest.raises(UsageError, match="input_mag 0"):
        convert(tmp_path / "source.ome.tif", tmp_path / "b.ome.tif", input_mag=0)


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
    with pytest.raises(UsageError, match="give input_mpp"):
        convert(path, tmp_path / "out.ome.tif")
    assert list(tmp_path.iterdir()) == []
    assert convert(path, tmp_path / "out.ome.tif", input_mag=20).mpp == 0.5


def test_an_unreadable_slide_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"broken\.svs"):
        convert(data_dir / "slides" / "broken.svs", tmp_path / "out.ome.tif")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out.ome.tif"

    def interrupt(state: State) -> None:
        if state.done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, out, progress=interrupt)
    assert not out.exists()
    assert convert(path, out).copied_tiles == 88 - 40
    whole = tmp_path / "whole.ome.tif"
    convert(path, whole)
    for got, wanted in zip(decode(out), decode(whole), strict=True):
        assert np.array_equal(got, wanted)


def test_the_command(tmp_path: Path) -> None:
    path, out = source(tmp_path), tmp_path / "out.ome.tif"
    data = bytearray(path.read_bytes())
    offset, length = stored_range(path, 5)
    data[offset : offset + length] = bytes(length)
    path.write_bytes(data)
    command = ["convert", str(path), str(out), "--input-mpp", "0.5", "--json"]
    with pytest.raises(SlideError, match="column 5 row 0"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
    done = CliRunner().invoke(cli, [*command, "--on-tile-error", "blank"], catch_exceptions=False)
    facts = json.loads(done.stdout)
    assert (facts["mpp"], facts["magnification"]) == (0.5, 20)
    assert facts["damaged_source_tiles"] == 1
    assert CliRunner().invoke(cli, ["convert", str(path), str(out)]).exception is not None
