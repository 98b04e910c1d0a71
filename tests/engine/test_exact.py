from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.support import job, level0, tissue_like
from wsisr.engine.array import upscale_image
from wsisr.engine.exact import aligned_overlap, check_exact
from wsisr.engine.run import upscale
from wsisr.errors import UsageError
from wsisr.plan import Rect
from wsisr.progress import State
from wsisr_kernels.blocks.reference import block_means

EXACT = {"consistency": "exact"}


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8])
def test_the_average_of_the_output_is_the_input(
    slide: Path,
    model_folder: Path,
    scale: int,
) -> None:
    """Over glass and tissue, windows and tiles, with random weights that know nothing."""
    image = tifffile.imread(slide)
    image[:, 100:] = 243
    image[60:70, 20:30] = 0
    tifffile.imwrite(slide, image, photometric="rgb", tile=(64, 64))
    options = {"scale": scale, "model": str(model_folder), "settings": EXACT, "force": True}
    result = upscale(job(slide, **options))
    assert result.tissue_windows < result.windows or scale < 8
    pixels = level0(Path(result.output))
    np.testing.assert_array_equal(block_means(pixels, scale), image)


def test_a_region_agrees_and_is_a_crop_of_the_whole(slide: Path, model_folder: Path) -> None:
    options = {"scale": 3, "model": str(model_folder), "settings": EXACT, "tissue": "off"}
    whole = level0(Path(upscale(job(slide, **options)).output))
    region = Rect(37, 29, 50, 41)
    part = upscale(job(slide, region=region, output=slide.with_name("part.ome.tif"), **options))
    crop = whole[29 * 3 : 70 * 3, 37 * 3 : 87 * 3]
    np.testing.assert_array_equal(level0(Path(part.output)), crop)
    np.testing.assert_array_equal(block_means(crop, 3), tifffile.imread(slide)[29:70, 37:87])


@pytest.mark.parametrize("fidelity", [0.0, 0.3, 1.0])
def test_every_fidelity_agrees(model_folder: Path, fidelity: float) -> None:
    lr = tissue_like(40, 37)
    out = upscale_image(
        lr, 4, model=str(model_folder), window=128, overlap=32, fidelity=fidelity, **EXACT
    )
    np.testing.assert_array_equal(block_means(out, 4), lr)


@pytest.mark.parametrize("fidelity", [0.0, 0.3, 1.0])
def test_soft_stays_within_the_inputs_quantisation(model_folder: Path, fidelity: float) -> None:
    lr = tissue_like(40, 37).clip(20, 235)
    out = upscale_image(lr, 4, model=str(model_folder), window=128, overlap=32, fidelity=fidelity)
    assert np.abs(block_means(out, 4).astype(int) - lr).mean() < 0.5


def test_an_interrupted_run_goes_on_between_input_pixels(
    slide: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = tissue_like(60, 700)
    tifffile.imwrite(slide, image, photometric="rgb", tile=(64, 64))
    wanted = job(slide, scale=3, settings=EXACT, tissue="off", input_mpp=0.75)
    whole = upscale(replace(wanted, output=slide.with_name("whole.ome.tif")))

    def stop(state: State) -> None:
        if state.done > 0.8 * state.total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(wanted, stop)
    result = upscale(wanted)
    assert result.resumed_rows == 3  # of four whole ones; 3 x 512 rows end on an input pixel
    np.testing.assert_array_equal(level0(Path(result.output)), level0(Path(whole.output)))
    np.testing.assert_array_equal(block_means(level0(Path(result.output)), 3), image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 2.5}, "whole scale.*scale 2"),
        ({"compression": "jpeg"}, "lossy.*compression deflate"),
        ({"compression": "jpeg2000", "quality": 90}, "lossy"),
        ({"scale": 97, "force": True}, "larger window"),
    ],
)
def test_what_cannot_be_exact_is_said(
    slide: Path,
    changes: dict[str, object],
    message: str,
) -> None:
    before = sorted(slide.parent.iterdir())
    with pytest.raises(UsageError, match=message):
        upscale(job(slide, settings=EXACT, **changes))
    assert sorted(slide.parent.iterdir()) == before


@given(st.integers(1, 16), st.integers(2, 20), st.integers(0, 40))
@settings(max_examples=100)
def test_windows_lie_whole_input_pixels_apart(tiles: int, scale: int, eighths: int) -> None:
    tile, overlap = 64 * tiles, min(8 * eighths, 32 * tiles)
    try:
        aligned = aligned_overlap(tile, overlap, scale)
    except UsageError:
        assert all((tile - o) % scale for o in range(overlap, tile // 2 + 1, 8))
        return
    assert aligned >= overlap
    assert aligned <= tile // 2
    assert aligned % 8 == (tile - aligned) % scale == 0


def test_the_usual_scales_keep_the_usual_overlap() -> None:
    assert {aligned_overlap(512, 64, scale) for scale in (2, 4, 8)} == {64}
    assert check_exact(4.0, lossless=True) == 4
