from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.errors import UsageError
from wsisr.resize import area_downsample, area_mean, area_span, reduce_area, reduced_size

SCALES = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32)


def noise(rows: int, columns: int, seed: int = 0, levels: int = 256) -> np.ndarray:
    """Gives bytes in which, with few levels, halves are common."""
    return np.random.default_rng(seed).integers(0, levels, (rows, columns, 3), np.uint8)


def reduced_whole(image: np.ndarray, factor: float) -> np.ndarray:
    size = image.shape[1], image.shape[0]
    count = reduced_size(size[0], factor), reduced_size(size[1], factor)
    return reduce_area(image, factor=factor, start=(0, 0), count=count, size=size)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("levels", [2, 3, 256])
def test_downsampling_gives_the_bytes_of_opencv(scale: int, levels: int) -> None:
    image = noise(17 * scale, 13 * scale, levels=levels)
    size = 13, 17
    expected = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(area_downsample(image, scale), expected)


@pytest.mark.parametrize("scale", SCALES)
def test_the_unrounded_mean_is_that_of_opencv_to_the_bit(scale: int) -> None:
    image = noise(17 * scale, 13 * scale)
    expected = cv2.resize(image.astype(np.float32), (13, 17), interpolation=cv2.INTER_AREA)
    found = area_mean(image, scale)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_halves_round_up_in_slides_and_to_even_in_published_inputs() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = 1  # a mean of 0.5
    assert (reduced_whole(image, 4.0) == 1).all()
    assert (area_downsample(image, 4) == 0).all()
    image[:2] = 3  # a mean of 1.5
    assert (reduced_whole(image, 4.0) == 2).all()
    assert (area_downsample(image, 4) == 2).all()


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_whole_factors_give_the_box_mean_with_halves_up(factor: int) -> None:
    image = noise(9 * factor, 7 * factor, levels=4)
    sums = image.reshape(9, factor, 7, factor, 3).sum((1, 3), dtype=np.int64)
    area = factor * factor
    np.testing.assert_array_equal(
        reduced_whole(image, float(factor)), (2 * sums + area) // (2 * area)
    )


@settings(max_examples=25, deadline=None)
@given(
    factor=st.floats(1.01, 9.7),
    rows=st.integers(1, 60),
    columns=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_uneven_factors_weigh_by_area_on_the_grid_of_the_slide(
    factor: float, rows: int, columns: int, seed: int
) -> None:
    image = noise(rows, columns, seed)
    shares = []
    for length in (rows, columns):
        edges = np.minimum(np.arange(reduced_size(length, factor) + 1) * factor, length)
        pixels = np.arange(length)
        cover = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
        cover = np.clip(cover, 0, None)
        shares.append(cover / cover.sum(1, keepdims=True))
    expected = np.einsum("ir,jc,rck->ijk", *shares, image.astype(np.float64))
    found = reduced_whole(image, factor)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("factor", [2.0, 3.0, 2.7])
def test_a_window_has_the_pixels_of_the_whole(factor: float) -> None:
    image = noise(50, 61)
    whole = reduced_whole(image, factor)
    start, count = (5, 3), (9, 12)
    (x0, x1), (y0, y1) = (area_span(start[i], count[i], factor, image.shape[1 - i]) for i in (0, 1))
    window = reduce_area(
        np.ascontiguousarray(image[y0:y1, x0:x1]),
        factor=factor,
        start=start,
        count=count,
        size=(61, 50),
    )
    np.testing.assert_array_equal(
        window, whole[start[1] : start[1] + count[1], start[0] : start[0] + count[0]]
    )


def test_only_images_of_whole_boxes_are_averaged() -> None:
    with pytest.raises(UsageError, match="31x30 px cannot be averaged by 3; crop to a multiple"):
        area_downsample(noise(30, 31), 3)
    with pytest.raises(UsageError, match="cannot be averaged by 0"):
        area_mean(noise(4, 4), 0)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UsageError, match="give an RGB image"):
            area_downsample(wrong, 2)


def test_views_into_larger_arrays_are_taken() -> None:
    image = noise(64, 64)
    part = image[8:40, 4:36, ::-1]
    np.testing.assert_array_equal(area_downsample(part, 4), area_downsample(part.copy(), 4))


@pytest.mark.parametrize(
    ("side", "factor", "start", "count", "size"),
    [
        (4, 2.0, (0, 0), (3, 3), (6, 6)),
        (4, 2.0, (9, 0), (2, 2), (6, 6)),
        (4, 2.0, (-1, 0), (2, 2), (6, 6)),
        (4, 2.0, (0, 0), (0, 2), (6, 6)),
        (4, 1.5, (20, 0), (2, 2), (6, 6)),
        (4, 0.5, (0, 0), (2, 2), (6, 6)),
        (4, float("nan"), (0, 0), (2, 2), (6, 6)),
        (4, float("inf"), (0, 0), (1, 1), (6, 6)),
    ],
)
def test_regions_that_would_leave_the_source_are_refused(
    side: int, factor: float, start: tuple[int, int], count: tuple[int, int], size: tuple[int, int]
) -> None:
    source = np.zeros((side, side, 3), np.uint8)
    with pytest.raises(UsageError, match=r"reduced by|cannot be resized"):
        reduce_area(source, factor=factor, start=start, count=count, size=size)
