from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.plan import Axis, target_size
from wsisr.resize.weights import area_matrix, cubic_matrix, cubic_span, reflect

TILES = st.sampled_from([(64, 0), (64, 8), (64, 32), (128, 24), (512, 64), (512, 256)])
SIZES = st.integers(1, 3000)
SCALES = st.one_of(
    st.sampled_from([2.0, 3.0, 4.0, 8.0, 2.5, 1.5]), st.floats(1.001, 16, allow_nan=False)
)


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
