from __future__ import annotations

import cv2
import numpy as np
import pytest

from wsisr.resize import area_matrix, cubic_matrix, cubic_span


@pytest.mark.parametrize("scale", [2.0, 4.0, 2.5])
def test_the_bicubic_matrix_resizes_as_opencv_does(scale: float) -> None:
    plane = np.random.default_rng(0).random((1, 40)).astype(np.float32)
    size = round(40 * scale)
    expected = cv2.resize(plane, (size, 1), interpolation=cv2.INTER_CUBIC)[0]
    matrix = cubic_matrix(0, size, size, scale, 40, (0, 40))
    np.testing.assert_allclose(matrix @ plane[0], expected, atol=1e-5)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_the_matrix_of_a_window_is_a_part_of_that_of_the_whole() -> None:
    whole = cubic_matrix(0, 160, 160, 4.0, 40, (0, 40))
    span = cubic_span(32, 64, 160, 4.0, 40)
    np.testing.assert_array_equal(
        cubic_matrix(32, 64, 160, 4.0, 40, span), whole[32:96, span[0] : span[1]]
    )


def test_pixels_beyond_the_edge_are_mirrored() -> None:
    whole = cubic_matrix(0, 20, 20, 2.0, 10, (0, 10))
    around = cubic_matrix(-3, 26, 20, 2.0, 10, (0, 10))
    np.testing.assert_array_equal(around[:3], whole[3:0:-1])
    np.testing.assert_array_equal(around[-3:], whole[-2:-5:-1])


def test_the_area_matrix_averages_and_leaves_out_what_is_not_whole() -> None:
    values = np.random.default_rng(0).random(16).astype(np.float32)
    matrix = area_matrix(2, 16, 100, 4.0, (0, 5))
    assert (matrix[[0, 4]] == 0).all()
    expected = values[2:14].reshape(3, 4).mean(1)
    np.testing.assert_allclose(matrix[1:4] @ values, expected, atol=1e-6)
