"""What openslide hands out, cropped and laid on its background; and Aperio's JPEG 2000."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.slides.test_formats import tissue_like
from wsisr.errors import SlideError
from wsisr.slides import open_slide
from wsisr.slides import openslide_reader as vendor
from wsisr.slides.openslide_reader import open_vendor

DICOM = "multi_frame_jpeg_camelyon_challenge_image.dcm"
BOUNDS = {"x": "101", "y": "61", "width": "640", "height": "500"}


class Scan:
    """Stands in for openslide on an MRXS: two levels, transparent where nothing was scanned."""

    def __init__(self, path: str) -> None:
        rgba = np.dstack([tissue_like(800, 1000), np.zeros((800, 1000), np.uint8)])
        rgba[61:561, 101:741, 3] = 255
        # a hole in the scanned part
        rgba[200:240, 300:360] = 0
        self.pixels = [rgba, np.ascontiguousarray(rgba[::2, ::2])]
        self.dimensions = (1000, 800)
        self.level_dimensions = ((1000, 800), (500, 400))
        self.level_downsamples = (1.0, 2.0)
        self.level_count = 2
        self.associated_images: dict[str, Image.Image] = {}
        self.color_profile = None
        self.properties = {
            "openslide.vendor": "mirax",
            "openslide.background-color": "F0F1F2",
            "openslide.mpp-x": "0.25",
            "openslide.mpp-y": "0.25",
            **{f"openslide.bounds-{key}": value for key, value in BOUNDS.items()},
        }

    def set_cache(self, cache: object) -> None:
        pass

    def close(self) -> None:
        pass

    def read_region(
        self, corner: tuple[int, int], level: int, size: tuple[int, int]
    ) -> Image.Image:
        x, y = (int(value / self.level_downsamples[level]) for value in corner)
        return Image.fromarray(self.pixels[level][y : y + size[1], x : x + size[0]], "RGBA")


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Scan:
    monkeypatch.setattr(vendor.openslide, "OpenSlide", Scan)
    return Scan("")


def test_bounds_crop_every_level(scan: Scan, tmp_path: Path) -> None:
    with open_vendor(tmp_path / "a.mrxs") as slide:
        assert [(level.width, level.height) for level in slide.levels] == [(640, 500), (320, 250)]
        assert slide.background == (0xF0, 0xF1, 0xF2)
        whole = slide.read(0, 0, 0, 640, 500)
        expected = scan.pixels[0][61:561, 101:741, :3].copy()
        expected[139:179, 199:259] = slide.background
        np.testing.assert_array_equal(whole, expected)
        # level 1 starts at half a pixel of its own, and takes the one before it
        half = slide.read(1, 0, 0, 320, 250)
        scanned = scan.pixels[1][30:280, 50:370]
        seen = scanned[..., 3] == 255
        np.testing.assert_array_equal(half[seen], scanned[..., :3][seen])
        assert (half[~seen] == slide.background).all()


@pytest.mark.parametrize("bounds", [{"x": "many"}, {"width": "0"}, {"x": "5000"}, {"height": "-4"}])
def test_bounds_that_cannot_be_are_not_used(
    scan: Scan, bounds: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "BOUNDS", BOUNDS | bounds)
    with open_vendor(tmp_path / "a.mrxs") as slide:
        assert (slide.width, slide.height) == (1000, 800)


@pytest.fixture
def damaged(data_dir: Path, tmp_path: Path) -> Path:
    """A DICOM slide whose fourth frame, at (768, 0), is no JPEG any more."""
    data = bytearray((data_dir / "slides" / DICOM).read_bytes())
    start = [found.start() for found in re.finditer(rb"\xff\xd8\xff", data)][3]
    data[start : start + 600] = bytes(600)
    (tmp_path / "bad.dcm").write_bytes(data)
    return tmp_path / "bad.dcm"


def test_damage_is_an_error_or_left_blank(data_dir: Path, damaged: Path) -> None:
    with open_slide(damaged) as slide, pytest.raises(SlideError, match=r"bad\.dcm: level 0"):
        slide.read(0, 0, 0, 1152, 700)
    with open_slide(data_dir / "slides" / DICOM) as slide:
        expected = slide.read(0, 0, 0, 1152, 700)
    expected[:256, 768:1024] = slide.background
    unreadable: set[tuple[str, int, int]] = set()
    with open_slide(damaged, unreadable=unreadable) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 1152, 700), expected)
        np.testing.assert_array_equal(slide.read(0, 700, 100, 99, 99), expected[100:199, 700:799])
    assert unreadable == {("level 0", 3, 0)}


def test_threads_read_round_the_damage(damaged: Path) -> None:
    corners = [(x, y) for y in range(0, 600, 90) for x in range(0, 1100, 90)]
    unreadable: set[tuple[str, int, int]] = set()
    with open_slide(damaged, unreadable=unreadable) as slide:
        whole = slide.read(0, 0, 0, 1152, 700)
        with ThreadPoolExecutor(4) as pool:
            windows = pool.map(lambda corner: slide.read(0, *corner, 50, 90), corners)
            for (x, y), window in zip(corners, windows, strict=True):
                np.testing.assert_array_equal(window, whole[y : y + 90, x : x + 50])
    assert unreadable == {("level 0", 3, 0)}


def aperio(path: Path, compression: int, streams: list[bytes], side: int, tile: int) -> None:
    """An SVS whose tiles are the given JPEG 2000 streams."""
    tifffile.imwrite(
        path,
        iter(streams),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(tile, tile),
        compression=34712,
        description="Aperio Image Library v1\n192x192 |AppMag = 20|MPP = 0.5",
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages.first.tags[259].overwrite(compression)


@pytest.mark.parametrize("compression", [33003, 33005])
def test_aperio_jpeg_2000_has_the_colours_of_openslide(compression: int, tmp_path: Path) -> None:
    pixels = tissue_like(192, 192)
    stored = pixels
    if compression == 33003:
        stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)[..., (0, 2, 1)]
    streams = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(stored[y : y + 96, x : x + 96]),
            level=0,
            codecformat="j2k",
            reversible=True,
            mct=compression == 33005,
        )
        for y in (0, 96)
        for x in (0, 96)
    ]
    path = tmp_path / "a.svs"
    aperio(path, compression, streams, 192, 96)
    with open_slide(path) as slide, openslide.OpenSlide(path) as other:
        assert slide.vendor == other.properties["openslide.vendor"] == "aperio"
        ours = slide.read(0, 0, 0, 192, 192).astype(int)
        theirs = np.asarray(other.read_region((0, 0), 0, (192, 192)))[..., :3]
    assert np.abs(ours - theirs).max() <= 2
    assert np.abs(ours - pixels).max() <= 4


def test_a_damaged_jpeg_2000_tile_is_named(tmp_path: Path) -> None:
    stream = imagecodecs.jpeg2k_encode(tissue_like(96, 96), level=0, codecformat="j2k")
    path = tmp_path / "a.svs"
    aperio(path, 33005, [stream, stream, stream[:30], stream], 192, 96)
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"tile column 0 row 1"):
        slide.read(0, 0, 0, 192, 192)


def test_a_folder_is_a_dicom_slide_only_alone(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes((data_dir / "slides" / DICOM).read_bytes())
    (tmp_path / "notes.txt").write_text("of the scanner")
    with open_slide(tmp_path) as slide, open_slide(tmp_path / "one.dcm") as alone:
        assert slide.levels == alone.levels
    with pytest.raises(SlideError, match="is a folder of several slides"):
        open_slide(data_dir / "slides")


@pytest.mark.parametrize(("mpp", "expected"), [("0.5", 0.5), ("352.7", None)])
def test_a_print_resolution_is_no_pixel_size(
    mpp: str, expected: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Printed(Scan):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            self.properties |= {"openslide.mpp-x": mpp, "openslide.mpp-y": mpp}

    monkeypatch.setattr(vendor.openslide, "OpenSlide", Printed)
    with open_vendor(tmp_path / "a.mrxs") as slide:
        assert slide.mpp == expected


def test_a_broken_profile_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Scan):
        color_profile = property(
            lambda _: ImageCms.getOpenProfile(io.BytesIO(b"none")), lambda *_: None
        )

    monkeypatch.setattr(vendor.openslide, "OpenSlide", Broken)
    with open_vendor(tmp_path / "a.mrxs") as slide:
        assert slide.icc_profile is None
