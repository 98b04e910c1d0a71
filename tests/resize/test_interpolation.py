from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from wsisr.resize import bicubic_upsample, resize_to, shrink_within


def picture(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (rows, columns, 3), np.uint8)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_bicubic_enlargement_is_that_of_the_published_baseline(scale: int) -> None:
    image = picture(19, 23)
    size = 23 * scale, 19 * scale
    expected = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(bicubic_upsample(image, scale), expected)


@pytest.mark.parametrize(
    ("size", "way"),
    [
        ((20, 17), cv2.INTER_AREA),
        ((40, 17), cv2.INTER_AREA),
        ((41, 31), cv2.INTER_CUBIC),
        ((90, 77), cv2.INTER_CUBIC),
    ],
)
def test_a_size_is_reached_by_area_or_bicubic(size: tuple[int, int], way: int) -> None:
    image = picture(30, 40)
    expected = cv2.resize(image, size, interpolation=way)
    np.testing.assert_array_equal(resize_to(image, size), expected)


def test_large_images_are_shrunk_into_a_square() -> None:
    image = picture(300, 40)
    size = (max(1, round(40 * (50 / 300))), 50)
    expected = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(shrink_within(image, 50), expected)
    assert shrink_within(image, 300) is image
    assert shrink_within(picture(300, 1), 10).shape == (10, 1, 3)


def test_importing_it_loads_neither_torch_nor_opencv() -> None:
    program = (
        "import sys, wsisr.resize as r; [getattr(r, name) for name in r.__all__];"
        "sys.exit(', '.join({'torch', 'cv2'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
