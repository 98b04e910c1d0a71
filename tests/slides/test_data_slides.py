"""Every slide of the data package, against openslide and tifffile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsisr.errors import SlideError, UsageError
from wsisr.formats.tiff_tags import TagId
from wsisr.slides import open_slide
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.ifd import read_ifds
from wsisr.slides.tiff.layout import open_tiff

TIFFS = (
    "cmu-1-small-region.svs",
    "tcga-cr-7395-01a-01-ts1.svs",
    "test_a_40x.tif",
    "test_a_5x.tif",
    "test_b_10x.tif",
    "test_b_40x.tif",
)
ALL = (*TIFFS, "multi_frame_jpeg_camelyon_challenge_image.dcm")


def by_openslide(handle: openslide.OpenSlide, level: int, x: int, y: int, w: int, h: int):
    factor = handle.level_downsamples[level]
    image = handle.read_region((round(x * factor), round(y * factor)), level, (w, h))
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", ALL)
def test_metadata_are_those_of_openslide(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as other:
        assert slide.vendor == other.properties["openslide.vendor"]
        assert [(level.width, level.height) for level in slide.levels] == list(
            other.level_dimensions
        )
        for level, factor in zip(slide.levels, other.level_downsamples, strict=True):
            assert level.downsample == pytest.approx(factor, rel=1e-3)
        sides = [other.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        if sides[0] is None:
            assert slide.mpp is None
        else:
            assert slide.mpp == pytest.approx(sum(map(float, sides)) / 2, rel=1e-9)
        power = other.properties.get("openslide.objective-power")
        assert slide.magnification == (None if power is None else float(power))
        assert set(slide.associated) == set(other.associated_images)
        for image, pixels in slide.associated.items():
            expected = np.asarray(other.associated_images[image].convert("RGB"))
            assert np.abs(pixels.astype(int) - expected).max() <= 2
        expected_size = other.properties.get("openslide.icc-size")
        size = None if slide.icc_profile is None else str(len(slide.icc_profile))
        assert size == expected_size


@pytest.mark.parametrize("name", TIFFS)
def test_direct_pixels_are_those_of_openslide(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    with open_tiff(path) as slide, openslide.OpenSlide(str(path)) as other:
        for index, level in enumerate(slide.levels):
            whole_factor = float(other.level_downsamples[index]).is_integer()
            # elsewhere openslide moves pixels by parts of one
            right = level.width - 300 if whole_factor else 0
            bottom = level.height - 300 if whole_factor else 0
            for x, y in ((0, 0), (right, bottom), (right // 2, bottom // 3)):
                w, h = min(700, level.width - x), min(600, level.height - y)
                ours = slide.read(index, x, y, w, h).astype(int)
                assert np.abs(ours - by_openslide(other, index, x, y, w, h)).max() <= 2


@pytest.mark.parametrize("name", TIFFS)
def test_directories_are_those_of_tifffile(data_dir: Path, name: str) -> None:
    path = data_dir / "slides" / name
    source = BytesAt(path)
    with tifffile.TiffFile(path) as other:
        ifds = read_ifds(source)
        assert len(ifds) == len(other.pages)
        for ifd, page in zip(ifds, other.pages, strict=True):
            page = page.aspage()
            assert ifd.integer(TagId.IMAGE_WIDTH, 0) == page.imagewidth
            assert ifd.text(TagId.IMAGE_DESCRIPTION) == page.description
            tag = TagId.TILE_OFFSETS if page.is_tiled else TagId.STRIP_OFFSETS
            assert tuple(ifd.integers(tag)) == tuple(page.dataoffsets)
    source.close()


@pytest.mark.parametrize("name", ALL)
def test_windows_beyond_the_edge_have_the_background(data_dir: Path, name: str) -> None:
    with open_slide(data_dir / "slides" / name) as slide:
        level = slide.levels[-1]
        window = slide.read(len(slide.levels) - 1, level.width - 5, -3, 9, 7)
        assert (window[:3] == slide.background).all()
        assert (window[:, 5:] == slide.background).all()
        inside = slide.read(len(slide.levels) - 1, level.width - 5, 0, 5, 4)
        np.testing.assert_array_equal(window[3:, :5], inside)
        assert (slide.read(0, slide.width + 10, 0, 4, 4) == slide.background).all()


def test_threads_read_what_one_reads(data_dir: Path) -> None:
    path = data_dir / "slides" / "cmu-1-small-region.svs"
    with open_slide(path, cache_bytes=1 << 20) as slide:
        whole = slide.read(0, 0, 0, slide.width, slide.height)
        rng = np.random.default_rng(5)
        corners = [(int(rng.integers(0, 1900)), int(rng.integers(0, 2600))) for _ in range(64)]
        with ThreadPoolExecutor(4) as pool:
            windows = list(pool.map(lambda corner: slide.read(0, *corner, 300, 300), corners))
    for (x, y), window in zip(corners, windows, strict=True):
        np.testing.assert_array_equal(window, whole[y : y + 300, x : x + 300])


def test_broken_slide_is_named(data_dir: Path) -> None:
    with pytest.raises(SlideError, match=r"broken\.svs") as caught:
        open_slide(data_dir / "slides" / "broken.svs")
    assert "\n" not in str(caught.value)


def test_a_closed_slide_and_impossible_windows_are_refused(data_dir: Path) -> None:
    slide = open_slide(data_dir / "slides" / "test_b_10x.tif")
    with pytest.raises(UsageError, match="level 3"):
        slide.read(3, 0, 0, 5, 5)
    with pytest.raises(UsageError, match="0x5"):
        slide.read(0, 0, 0, 0, 5)
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read(0, 0, 0, 5, 5)


def read_all(path: Path) -> None:
    with open_slide(path) as slide:
        for index, level in enumerate(slide.levels):
            slide.read(index, 0, 0, level.width, level.height)
        dict(slide.associated)


@pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "test_b_40x.tif"])
def test_a_slide_cut_short_names_the_tile_or_the_file(
    data_dir: Path, tmp_path: Path, name: str
) -> None:
    data = (data_dir / "slides" / name).read_bytes()
    for share in (0.01, 0.3, 0.7, 0.999):
        cut = tmp_path / name
        cut.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SlideError, match=name) as caught:
            read_all(cut)
        assert "\n" not in str(caught.value)


def test_a_corrupt_tile_is_named(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "slides" / "test_b_40x.tif"
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[12 * 3 + 5]
        length = tiff.pages[0].databytecounts[12 * 3 + 5]
    data = bytearray(path.read_bytes())
    data[offset : offset + length] = bytes(length)
    bad = tmp_path / "bad.tif"
    bad.write_bytes(data)
    with open_slide(bad) as slide:
        slide.read(0, 0, 0, 512, 512)
        with pytest.raises(SlideError, match=r"bad\.tif: level 0, tile column 5 row 3"):
            slide.read(0, 0, 0, 3072, 1024)
    unreadable: set[tuple[str, int, int]] = set()
    with open_slide(bad, unreadable=unreadable) as slide:
        pixels = slide.read(0, 5 * 256, 3 * 256, 256, 256)
    assert (pixels == slide.background).all()
    assert unreadable == {("level 0", 5, 3)}
