"""Views between the stored levels: exact area means, whatever the window."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.errors import OptionError, UsageError
from wsisr.resize import reduced_size
from wsisr.slides import open_slide, select_view
from wsisr.slides.base import SlideInfo, StoredSlide
from wsisr.slides.view import coarser_view, overview


class ArrayLevel:
    """A level in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        return self.pixels[y : y + height, x : x + width]


def slide_of(width: int, height: int, seed: int = 0, **info: float) -> StoredSlide:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return StoredSlide(Path("memory"), [ArrayLevel(pixels)], SlideInfo("memory", **info))


def exact_means(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Area means in rational arithmetic, half rounded up."""
    height, width = pixels.shape[:2]

    def weights(size: int) -> list[dict[int, Fraction]]:
        spans = []
        for k in range(reduced_size(size, factor)):
            low = Fraction(k * factor)
            high = min(Fraction((k + 1) * factor), Fraction(size))
            spans.append(
                {
                    i: min(high, Fraction(i + 1)) - max(low, Fraction(i))
                    for i in range(int(low), min(size, -int(-high // 1)))
                }
            )
        return spans

    rows, cols = weights(height), weights(width)
    out = np.zeros((len(rows), len(cols), 3), np.uint8)
    for r, row in enumerate(rows):
        for c, col in enumerate(cols):
            area = sum(row.values()) * sum(col.values())
            for k in range(3):
                total = sum(
                    wy * wx * int(pixels[y, x, k]) for y, wy in row.items() for x, wx in col.items()
                )
                out[r, c, k] = int(total / area + Fraction(1, 2))
    return out


@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_integer_factors_are_box_means_rounded_half_up(factor: int) -> None:
    slide = slide_of(31, 22, mpp=0.25, magnification=40.0)
    view = select_view(slide, input_mag=40 / factor)
    assert view.downsample == factor
    assert (view.width, view.height) == (-(-31 // factor), -(-22 // factor))
    pixels = slide.read(0, 0, 0, 31, 22)
    expected = exact_means(pixels, float(factor))
    np.testing.assert_array_equal(view.read(0, 0, view.width, view.height), expected)


@settings(max_examples=15, deadline=None)
@given(factor=st.floats(1.02, 9), width=st.integers(1, 19), height=st.integers(1, 19))
def test_any_factor_weighs_by_area(factor: float, width: int, height: int) -> None:
    slide = slide_of(width, height, mpp=1.0)
    view = select_view(slide, input_mpp=factor)
    pixels = slide.read(0, 0, 0, width, height)
    ours = view.read(0, 0, view.width, view.height).astype(int)
    # double precision may round a tie the other way
    assert np.abs(ours - exact_means(pixels, view.factor)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    factor=st.one_of(st.integers(1, 9).map(float), st.floats(1.02, 9)),
    x=st.integers(-30, 130),
    y=st.integers(-30, 130),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    seed=st.integers(0, 3),
)
def test_any_window_is_a_crop_of_the_whole(
    factor: float, x: int, y: int, width: int, height: int, seed: int
) -> None:
    view = select_view(slide_of(97, 113, seed, mpp=1.0), input_mpp=factor)
    margin = 30 + 130 + 90
    whole = view.read(-margin, -margin, 2 * margin + 130, 2 * margin + 130)
    np.testing.assert_array_equal(
        view.read(x, y, width, height),
        whole[y + margin : y + margin + height, x + margin : x + margin + width],
    )


def test_a_window_read_in_bands_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    view = select_view(slide_of(200, 300, mpp=1.0), input_mpp=2.7)
    whole = view.read(0, 0, view.width, view.height)
    monkeypatch.setattr("wsisr.slides.view.BAND_BYTES", 1000)
    np.testing.assert_array_equal(view.read(0, 0, view.width, view.height), whole)


def test_views_of_real_slides(data_dir: Path) -> None:
    with open_slide(data_dir / "slides" / "test_a_40x.tif") as slide:
        assert select_view(slide).mpp == slide.mpp
        ten = select_view(slide, input_mag=10)
        assert (ten.level, ten.factor, ten.magnification) == (1, 1.0, 10.0)
        five = select_view(slide, input_mag=5)
        assert (five.level, five.factor, five.width) == (1, 2.0, 1024)
        stored = select_view(slide, level=2)
        assert (stored.width, stored.magnification) == (512, 2.5)
        with pytest.raises(UsageError, match="finest"):
            select_view(slide, input_mpp=0.1)
        with pytest.raises(UsageError, match="level 3: "):
            select_view(slide, level=3)
    with open_slide(data_dir / "slides" / "cmu-1-small-region.svs") as slide:
        view = select_view(slide, input_mag=5)
        assert (view.width, view.height, view.factor) == (555, 742, 4.0)
        assert view.mpp == pytest.approx(4 * 0.499)


def test_a_stated_resolution_stands_for_a_slide_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slide = slide_of(64, 64)
    assert select_view(slide).mpp is None
    view = select_view(slide, input_mpp=0.5)
    assert (view.mpp, view.magnification, view.width) == (0.5, 20.0, 64)
    assert select_view(slide, input_mag=40).mpp == 0.25
    known = slide_of(64, 64, mpp=0.25, magnification=40.0)
    assert select_view(known, level=0, input_mpp=0.5).mpp == 0.5
    assert "given is used instead" in caplog.text
    with pytest.raises(UsageError, match="different resolutions"):
        select_view(known, input_mpp=1.0, input_mag=20)
    with pytest.raises(UsageError, match="above 0"):
        select_view(known, input_mpp=-1.0)


def test_a_coarser_view_lies_on_the_same_grid() -> None:
    view = select_view(slide_of(100, 80, mpp=0.5), input_mpp=1.0)
    coarse = coarser_view(view, 4)
    assert (coarse.downsample, coarse.factor, coarse.width, coarse.mpp) == (8.0, 8.0, 13, 4.0)


@pytest.mark.parametrize("factor", [1, 2.5, 8])
def test_an_overview_is_the_whole_slide_averaged(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = slide_of(203, 150)
    expected = exact_means(slide.read(0, 0, 0, 203, 150), factor)
    np.testing.assert_array_equal(overview(slide, factor), expected)
    monkeypatch.setattr("wsisr.slides.view.BAND_BYTES", 1000)
    np.testing.assert_array_equal(overview(slide, factor), expected)
    half = select_view(slide_of(203, 150, mpp=0.25), input_mpp=0.5)
    whole = coarser_view(half, factor)
    np.testing.assert_array_equal(
        overview(half, factor), whole.read(0, 0, whole.width, whole.height)
    )


def test_options_are_named_as_arguments() -> None:
    slide = slide_of(40, 30, mpp=0.25)
    for options, name in (
        ({"input_mpp": -1.0}, "input_mpp"),
        ({"input_mag": 0.0}, "input_mag"),
        ({"level": 3}, "level"),
    ):
        with pytest.raises(OptionError, match=f"^{name} ") as caught:
            select_view(slide, **options)
        assert caught.value.option == name
    with pytest.raises(UsageError, match="coarser input_mpp or a smaller input_mag"):
        select_view(slide, input_mpp=0.1)
