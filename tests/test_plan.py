from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.errors import UsageError
from wsisr.plan import Axis, Rect, make_plan, scaled_region, target_size
from wsisr.resize.weights import area_matrix, cubic_matrix, cubic_span, reflect

TILES = st.sampled_from([(64, 0), (64, 8), (64, 32), (128, 24), (512, 64), (512, 256)])
SIZES = st.integers(1, 3000)
SCALES = st.one_of(
    st.sampled_from([2.0, 3.0, 4.0, 8.0, 2.5, 1.5]), st.floats(1.001, 16, allow_nan=False)
)


@given(size=SIZES, tile=TILES)
def test_cells_cover_every_pixel_once(size: int, tile: tuple[int, int]) -> None:
    axis = Axis(size, *tile)
    ends = [axis.cell(i) for i in range(axis.count)]
    assert ends[0][0] == 0
    assert ends[-1][1] == size
    assert all(a[1] == b[0] for a, b in pairwise(ends))
    assert all(start < end for start, end in ends)


@given(size=SIZES, tile=TILES)
def test_windows_reach_the_end_and_none_is_needless(size: int, tile: tuple[int, int]) -> None:
    axis = Axis(size, *tile)
    assert (axis.count - 1) * axis.stride + axis.window >= size
    assert axis.count == 1 or (axis.count - 2) * axis.stride + axis.window < size


@given(size=SIZES, tile=TILES, position=st.floats(0, 0.9999))
def test_cell_at_finds_the_cell(size: int, tile: tuple[int, int], position: float) -> None:
    axis = Axis(size, *tile)
    pixel = int(position * size)
    start, end = axis.cell(axis.cell_at(pixel))
    assert start <= pixel < end


@given(size=SIZES, tile=TILES, a=st.floats(0, 0.9999), b=st.floats(0, 0.9999))
def test_needed_windows_are_all_that_touch_a_part(
    size: int, tile: tuple[int, int], a: float, b: float
) -> None:
    axis = Axis(size, *tile)
    start, end = sorted((int(a * size), int(b * size)))
    first, last = axis.needed(start, end + 1)
    # a window counts for a pixel if its weight there is not zero: it holds the pixel, and the
    # pixel is neither behind its trailing ramp nor before it
    for pixel in {start, end}:
        cell = axis.cell_at(pixel)
        wanted = {cell}
        if cell and pixel - cell * axis.stride < axis.overlap:
            wanted.add(cell - 1)
        assert first <= min(wanted)
        assert max(wanted) <= last


@settings(deadline=None, max_examples=60)
@given(w=st.integers(1, 400), h=st.integers(1, 400), scale=SCALES, tile=TILES)
def test_any_size_and_scale_has_a_plan(w: int, h: int, scale: float, tile: tuple[int, int]) -> None:
    plan = make_plan(w, h, scale, window=tile[0], overlap=tile[1])
    assert plan.region == Rect(0, 0, target_size(w, scale), target_size(h, scale))
    windows = [next(plan.windows())]
    windows.append(list(plan.windows())[-1] if len(plan) < 2000 else windows[0])
    for window in windows:
        for start, axis, size in (
            (window.x, plan.columns, w),
            (window.y, plan.rows, h),
        ):
            left, right = plan.view_span(start, axis)
            assert 0 <= left < right <= size
            up, down = plan.sampling(start, axis)
            assert up.shape == (plan.window, right - left)
            assert down.shape == (right - left, plan.window)
            np.testing.assert_allclose(up.sum(1), 1, atol=1e-5)
            sums = down.sum(1)
            assert np.all((np.abs(sums - 1) < 1e-4) | (sums == 0))


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 60),
    scale=st.sampled_from([2, 3, 4, 8]),
    start=st.integers(0, 400),
)
def test_cubic_matrix_is_torchs_bicubic(n: int, scale: int, start: int) -> None:
    size = n * scale
    start = min(start, size - 1)
    count = size - start
    span = cubic_span(start, count, size, scale, n)
    matrix = cubic_matrix(start, count, size, scale, n, span)
    signal = np.random.default_rng(n).random(n).astype(np.float32)
    expected = F.interpolate(
        torch.from_numpy(signal).view(1, 1, 1, -1), size=(1, size), mode="bicubic"
    )[0, 0, 0].numpy()
    # torch has the positions, up to 60 here, in float32
    np.testing.assert_allclose(matrix @ signal[span[0] : span[1]], expected[start:], atol=1e-5)


def test_cubic_matrix_is_opencvs_at_other_scales() -> None:
    signal = np.random.default_rng(0).random((1, 40)).astype(np.float32)
    expected = cv2.resize(signal, (100, 1), interpolation=cv2.INTER_CUBIC)[0]
    span = cubic_span(0, 100, 100, 2.5, 40)
    matrix = cubic_matrix(0, 100, 100, 2.5, 40, span)
    # OpenCV rounds the taps of a row to float32 at 2^-11
    np.testing.assert_allclose(matrix @ signal[0, span[0] : span[1]], expected, atol=2e-3)


@settings(deadline=None)
@given(n=st.integers(1, 40), scale=SCALES, tile=st.sampled_from([64, 128]))
def test_a_window_is_a_crop_of_the_whole(n: int, scale: float, tile: int) -> None:
    size = target_size(n, scale)
    signal = np.random.default_rng(n).random(n)
    whole = cubic_matrix(0, size, size, scale, n, cubic_span(0, size, size, scale, n))
    span = cubic_span(0, size, size, scale, n)
    full = whole @ signal[span[0] : span[1]]
    axis = Axis(size, tile, 8)
    for index in range(min(axis.count, 4)):
        start = index * axis.stride
        part = cubic_span(start, tile, size, scale, n)
        window = cubic_matrix(start, tile, size, scale, n, part) @ signal[part[0] : part[1]]
        inside = min(tile, size - start)
        np.testing.assert_allclose(window[:inside], full[start : start + inside], atol=1e-6)
        mirrored = full[reflect(np.arange(start, start + tile), size)]
        np.testing.assert_allclose(window, mirrored, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_area_matrix_is_the_box_mean(scale: int) -> None:
    n, tile = 40, 128
    size = n * scale
    start = scale * 2
    span = cubic_span(start, tile, size, scale, n)
    down = area_matrix(start, tile, size, scale, span)
    pixels = np.random.default_rng(1).random(size)
    means = pixels.reshape(n, scale).mean(1)
    window = np.pad(pixels, (0, tile))[start : start + tile]
    whole = down.any(1)
    assert whole.sum() == min(tile, size - start) // scale
    np.testing.assert_allclose((down @ window)[whole], means[span[0] : span[1]][whole], atol=1e-6)


@given(size=st.integers(1, 50), position=st.integers(-300, 300))
def test_reflect_is_numpys(size: int, position: int) -> None:
    line = np.arange(size)
    padded = np.pad(line, 300, mode="reflect") if size > 1 else np.zeros(601, int)
    assert reflect(np.array([position]), size)[0] == padded[position + 300]


def test_region_windows_are_those_of_the_whole() -> None:
    whole = {(w.row, w.column): w for w in make_plan(400, 300, 4).windows()}
    part = make_plan(400, 300, 4, region=Rect(130, 120, 100, 60))
    assert part.region == Rect(520, 480, 400, 240)
    assert all(whole[w.row, w.column] == w for w in part.windows())
    assert next(part.windows()).row == 0  # blends into row 1, whose ramp it shares
    assert len(part) < len(whole)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0, -2.0, float("nan"), float("inf")])
def test_scale_must_exceed_one(scale: float) -> None:
    with pytest.raises(UsageError, match="--scale"):
        make_plan(10, 10, scale)


@pytest.mark.parametrize(
    ("tile", "overlap"), [(500, 64), (0, 0), (512, 260), (512, 65), (512, -8), (-512, 0)]
)
def test_tiles_must_fit_the_latent_grid(tile: int, overlap: int) -> None:
    with pytest.raises(UsageError, match=r"--tile|--overlap"):
        make_plan(10, 10, 2, window=tile, overlap=overlap)


@pytest.mark.parametrize(
    "region",
    [Rect(0, 0, 0, 5), Rect(0, 0, 5, 0), Rect(-1, 0, 5, 5), Rect(0, 0, 101, 5), Rect(99, 99, 2, 1)],
)
def test_regions_must_lie_inside(region: Rect) -> None:
    with pytest.raises(UsageError, match="--region"):
        scaled_region(region, 1.0, 100, 100)
    with pytest.raises(UsageError, match="--region"):
        make_plan(100, 100, 2, region=region)


def test_scaled_region_covers_what_was_asked() -> None:
    assert scaled_region(Rect(0, 0, 400, 400), 4.0, 100, 100) == Rect(0, 0, 100, 100)
    assert scaled_region(Rect(5, 5, 2, 2), 4.0, 100, 100) == Rect(1, 1, 1, 1)
    assert scaled_region(Rect(3, 3, 2, 2), 4.0, 100, 100) == Rect(0, 0, 2, 2)
    assert scaled_region(Rect(403, 399, 1, 5), 4.0, 101, 101) == Rect(100, 99, 1, 2)
