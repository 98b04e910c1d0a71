from __future__ import annotations

import numpy as np
import pytest

from wsisr.resize import halve, halve_plane


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("levels", [2, 256])
def test_halving_rounds_half_up_and_repeats_an_odd_edge(samples: int, levels: int) -> None:
    for rows, columns in ((8, 6), (7, 6), (1, 1), (9, 33)):
        image = np.random.default_rng(0).integers(0, levels, (rows, columns, samples), np.uint8)
        padded = np.pad(image, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge")
        boxes = padded.reshape((rows + 1) // 2, 2, (columns + 1) // 2, 2, samples)
        expected = (boxes.sum((1, 3), dtype=np.int64) + 2) >> 2
        np.testing.assert_array_equal(halve(image), expected)


def test_all_boxes_of_few_levels() -> None:
    values = np.array([0, 1, 2, 3, 254, 255], np.uint8)
    boxes = np.stack(np.meshgrid(*[values] * 4), -1).reshape(-1, 4)
    image = boxes.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1, 1)
    expected = (boxes.sum(1, dtype=np.int64) + 2) >> 2
    np.testing.assert_array_equal(halve(np.ascontiguousarray(image))[0, :, 0], expected)


@pytest.mark.parametrize("kind", [np.uint8, np.float64])
def test_planes_are_halved_without_rounding(kind: type) -> None:
    for rows, columns in ((8, 6), (7, 9)):
        plane = (np.random.default_rng(0).random((rows, columns)) * 255).astype(kind)
        even = plane[: rows // 2 * 2, : columns // 2 * 2].astype(np.float64)
        a, b, c, d = even[::2, ::2], even[::2, 1::2], even[1::2, ::2], even[1::2, 1::2]
        np.testing.assert_array_equal(halve_plane(plane), (a + b + c + d) / 4.0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (2, 1, 3), (1, 5, 4), (3, 3, 1)])
@pytest.mark.parametrize("value", [0, 255])
def test_the_smallest_images_are_halved(shape: tuple[int, int, int], value: int) -> None:
    made = halve(np.full(shape, value, np.uint8))
    assert made.shape == ((shape[0] + 1) // 2, (shape[1] + 1) // 2, shape[2])
    assert (made == value).all()


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (1, 7), (2, 3)])
def test_the_smallest_planes_are_halved(shape: tuple[int, int]) -> None:
    made = halve_plane(np.full(shape, 255, np.uint8))
    assert made.shape == (shape[0] // 2, shape[1] // 2)
    assert (made == 255).all()
