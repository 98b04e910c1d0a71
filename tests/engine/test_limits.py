"""What is likely a mistake is asked for by name, with the numbers in the message."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import wsisr
from tests.engine.support import job, tissue_like
from tests.processes import wsisr as command
from wsisr.engine import find_resolution, open_view, prepare, upscale
from wsisr.engine.limits import check_scale
from wsisr.errors import OptionError, SlideError, UsageError, WsisrError


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(tissue_like(60, 40)).save(path)
    return path


@pytest.mark.parametrize(
    "scale", [math.inf, -math.inf, math.nan, 0.0, -4.0, 1.0, 1e308, 1e-308, 1001.0]
)
@pytest.mark.parametrize("force", [False, True])
def test_no_scale_is_a_traceback(picture: Path, scale: float, force: bool) -> None:
    with pytest.raises(OptionError, match="greater than 1"):
        prepare(job(picture, scale=scale, force=force))
    with pytest.raises(OptionError, match="greater than 1"):
        wsisr.upscale_image(tissue_like(60, 40), scale, model="bicubic", force=force)


@pytest.mark.parametrize(
    ("option", "value"), [("window", 64 * 10**8), ("uncertainty", 10**9), ("uncertainty", 1)]
)
def test_what_would_take_for_ever_is_refused(picture: Path, option: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"{option} {value}"):
        prepare(job(picture, **{option: value}))


@pytest.mark.parametrize("scale", ["inf", "nan", "0", "-1", "1e308"])
def test_nor_is_it_on_the_command_line(picture: Path, scale: str) -> None:
    done = command(
        "upscale", picture, picture.with_name("o.ome.tif"), "--input-mag", 10, "--scale", scale
    )
    assert done.returncode == 2
    assert "--scale" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def refused(slide: Path, error: type[WsisrError], message: str, **changes: object) -> None:
    """Refused without `force`, and with it not."""
    with pytest.raises(error, match=message) as raised, open_view(job(slide, **changes)) as view:
        find_resolution(job(slide, **changes), view)
    assert "<force>" in raised.value.spelled(lambda option: f"<{option}>")
    forced = job(slide, **changes, force=True)
    with open_view(forced) as view:
        find_resolution(forced, view)


def test_a_thumbnail_is_not_blown_up_to_gigapixels(picture: Path) -> None:
    thumbnail = {"scale": None, "input_mpp": 28.97}
    refused(picture, SlideError, r"28\.97 um/px is not between 0\.05 and 20", **thumbnail)
    coarse = {"scale": None, "input_mpp": 15.0}
    message = r"scale 60: makes 3600x2400 px \(8\.64 megapixels\) of 60x40 \(15 um/px\); at most 8"
    refused(picture, OptionError, message, **coarse)
    print_resolution = {"scale": 8.0, "input_mpp": 352.8}
    refused(picture, SlideError, r"352\.8 um/px", **print_resolution)
    refused(picture, SlideError, r"0\.01 um/px", scale=2.0, input_mpp=0.01)


def test_a_magnification_that_contradicts_the_pixel_size(picture: Path) -> None:
    both = {"input_mpp": 0.25, "input_mag": 5.0, "scale": 2.0}
    refused(picture, SlideError, r"0\.25 um/px, which is 40x, contradicts .* 5x", **both)
    # a 20x objective with a doubling adapter
    doubled = job(picture, input_mpp=0.2425, input_mag=20.0, scale=2.0)
    with open_view(doubled) as view:
        assert find_resolution(doubled, view).mpp == pytest.approx(0.12125)


def test_scales_that_a_model_was_not_trained_for(picture: Path) -> None:
    for scale in (1.5, 2, 3, 4, 5.66, 8):
        check_scale(scale, "tiny", force=False)
        check_scale(scale, "bicubic", force=False)
    refused(picture, OptionError, "at most 8", model="tiny", scale=16.0)
    refused(
        picture,
        OptionError,
        r"scale 1\.2: .*the model tiny was trained for 2, 4, 8",
        model="tiny",
        scale=1.2,
    )
    with pytest.raises(OptionError, match="trained for 2, 4, 8"):
        wsisr.upscale_image(tissue_like(64, 64), 1.1)
    with pytest.raises(OptionError, match="at most 8"):
        wsisr.upscale_image(tissue_like(64, 64), 9, model="bicubic")
    assert wsisr.upscale_image(tissue_like(64, 64), 9, model="bicubic", force=True).shape[0] == 576


def test_what_was_upscaled_before_is_not_upscaled_again(tmp_path: Path) -> None:
    slide = tmp_path / "in.tif"
    tifffile.imwrite(slide, tissue_like(150, 110), photometric="rgb", tile=(64, 64))
    for name in ("out.ome.tif", "out.ome.zarr"):
        first = tmp_path / name
        upscale(job(slide, output=first, scale=2))
        again = job(first, output=tmp_path / "again.ome.tif", scale=2, input_mpp=None)
        with pytest.raises(UsageError, match=rf"{name} was upscaled before.*bicubic.*force"):
            upscale(again)
        assert not again.output.exists()
        assert prepare(job(first, scale=2, input_mpp=None, force=True)).image.width == 600
    converted = tmp_path / "converted.ome.tif"
    wsisr.convert(slide, converted, input_mpp=1.0)
    assert prepare(job(converted, scale=2)).image.width == 300


def test_a_cohort_says_so_of_each_slide(picture: Path, tmp_path: Path) -> None:
    done = command(
        *("batch", picture, "--out", tmp_path / "out", "--input-mpp", 28.97, "--model", "bicubic"),
        *("--device", "cpu", "--workers", 1, "--retries", 0),
    )
    assert done.returncode == 1
    assert "28.97 um/px is not between" in done.stderr
    assert np.all([not path.name.startswith("in.ome") for path in (tmp_path / "out").iterdir()])
