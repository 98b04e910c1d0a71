"""What is paired: tiles by one rule for all images, and regions at their place in the input."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pyramid.support import write
from wsisr.errors import OptionError, UsageError
from wsisr.evaluation import evaluate
from wsisr.evaluation.pairing import FolderPairs, SlidePairs, part_of
from wsisr.pyramid import PyramidSpec
from wsisr.resize import area_downsample, bicubic_upsample
from wsisr.slides import open_slide

SCALE = 4


def scan(data_dir: Path, side: int = 1024) -> np.ndarray:
    with open_slide(data_dir / "slides" / "test_b_40x.tif") as slide:
        return slide.read(0, 1024, 1024, side, side)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("turned.jpg", {"quality": 95, "subsampling": 0}),
        ("turned.png", {}),
        ("turned.tif", {}),
        ("turned.webp", {"lossless": True}),
    ],
)
def test_tiles_are_read_as_slides_are(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    """Orientation, alpha and depth followed other rules in tiles than in slides."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(90, 120, (48, 64, 3), np.uint8))
    exif = image.getexif()
    exif[274] = 6
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / name, exif=exif, **options)
    pairs = FolderPairs(tmp_path / "sr", tmp_path / "hr")
    images = pairs.load(pairs.locations[0])
    with open_slide(tmp_path / "sr" / name) as slide:
        assert (slide.width, slide.height) == (48, 64)
        np.testing.assert_array_equal(images.sr, slide.read(0, 0, 0, 48, 64))


def test_transparent_and_deep_tiles(tmp_path: Path) -> None:
    pixels = np.full((48, 64, 4), (10, 20, 30, 255), np.uint8)
    pixels[:24, :, 3] = 0
    deep = np.full((48, 64), 0x1234, np.uint16)
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels, "RGBA").save(tmp_path / folder / "alpha.png")
        Image.fromarray(deep).save(tmp_path / folder / "deep.png")
    pairs = FolderPairs(tmp_path / "sr", tmp_path / "hr")
    alpha, deep_ones = (pairs.load(location).sr for location in pairs.locations)
    assert (alpha[:24] == 255).all()
    assert (alpha[24:] == (10, 20, 30)).all()
    assert (deep_ones == 0x12).all()


def test_hidden_tiles_are_left_out(tmp_path: Path) -> None:
    for folder in ("sr", "hr"):
        for name in ("a.png", ".b.png", ".hidden/c.png"):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32)).save(path)
    (tmp_path / "hr" / "._a.png").write_bytes(b"what macOS leaves beside files")
    pairs = FolderPairs(tmp_path / "sr", tmp_path / "hr")
    assert [location.name for location in pairs.locations] == ["a"]


def test_two_tiles_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder, names in (("sr", ("a.png", "a.jpg")), ("hr", ("a.png",))):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.new("RGB", (32, 32)).save(tmp_path / folder / name)
    with pytest.raises(UsageError, match=r"a\.jpg and .*a\.png have one name"):
        FolderPairs(tmp_path / "sr", tmp_path / "hr")


def test_a_tile_that_does_not_match_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    for folder, side in (("sr", 64), ("hr", 72)):
        (tmp_path / folder).mkdir()
        for name, size in (("good", 64), ("bad", side)):
            pixels = rng.integers(0, 255, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    with caplog.at_level(logging.WARNING):
        result = evaluate(tmp_path / "sr", tmp_path / "hr", tiles=True, metrics="psnr")
    assert list(result.failed) == ["bad"]
    assert "bad is left out" in caplog.text


@pytest.fixture
def part(data_dir: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The lower right part of a x4 enlargement, as `upscale` with a region writes it, and LR.

    It has half the sides of the whole: by its size alone it would be a x2 enlargement of all.
    """
    lr = area_downsample(scan(data_dir), SCALE)
    Image.fromarray(lr).save(tmp_path / "lr.png")
    record = {"region": [512, 512, 512, 512], "scale": float(SCALE)}
    spec = PyramidSpec(512, 512, 0.25, 40, tile=128, compression="deflate", provenance=record)
    sr = write(tmp_path / "sr.ome.tif", spec, bicubic_upsample(lr, SCALE)[512:, 512:])
    return sr, tmp_path / "lr.png"


def test_a_region_is_compared_with_its_place_in_the_input(part: tuple[Path, Path]) -> None:
    sr, lr = part
    assert part_of(sr) == (512, 512, SCALE)
    result = evaluate(sr, lr=lr, metrics="lr_rmse", tile_size=256, count=None)
    whole = evaluate(sr, lr=lr, metrics="lr_rmse", tile_size=256, count=1)
    assert result.methods["sr"]["lr_rmse"] < 6
    assert whole.methods["sr"]["lr_rmse"] < 6


def test_a_region_outside_the_input_is_refused(part: tuple[Path, Path], tmp_path: Path) -> None:
    Image.new("RGB", (150, 150)).save(tmp_path / "small.png")
    with open_slide(part[0]) as sr, open_slide(tmp_path / "small.png") as lr:
        pairs = SlidePairs(sr, 0.25, lr=lr, part=part_of(part[0]))
        with pytest.raises(OptionError, match=r"512x512 px at \(512, 512\)"):
            assert pairs.scale


@pytest.mark.parametrize(
    "record",
    [{}, {"region": [0, 0, 4]}, {"region": [0, 0, 4, "4"], "scale": 4},
     {"region": [-1, 0, 4, 4], "scale": 4}, {"region": [0, 0, 4, 4], "scale": 2.5},
     {"region": [0, 0, 4, 4], "scale": "4"}, {"region": [0, 0, 4, 4], "scale": 0}],
)  # fmt: skip
def test_provenance_of_another_kind_says_nothing_of_a_place(
    tmp_path: Path, record: dict[str, object]
) -> None:
    spec = PyramidSpec(64, 64, 0.25, 40, tile=64, provenance=record)
    assert part_of(write(tmp_path / "a.ome.tif", spec, np.zeros((64, 64, 3), np.uint8))) is None


def test_a_scan_has_no_part(data_dir: Path) -> None:
    assert part_of(data_dir / "slides" / "test_b_40x.tif") is None
