from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kurtosis, skew
from skimage.feature import graycomatrix, graycoprops

from wsisr.errors import UsageError
from wsisr.evaluation import measure
from wsisr.evaluation.measures.pixels import Image
from wsisr.evaluation.measures.texture import (
    TEXTURE_NAMES,
    features_l1,
    grey_levels,
    nuclear_features,
)
from wsisr.evaluation.nuclei.classical import ClassicalSegmenter, keep_by_area
from wsisr.evaluation.nuclei.segmenter import Labels

ANGLES = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]


def naive_features(image: Image, labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    """Nucleus by nucleus with SciPy and scikit-image; level 256 stands for the outside."""
    grey = grey_levels(image).astype(np.uint16)
    intensity, texture = [], []
    for label in range(1, labels.max() + 1):
        inside = labels == label
        values = grey[inside].astype(float)
        constant = values.std() == 0
        higher = (0.0, 0.0) if constant else (skew(values), kurtosis(values))
        intensity.append([values.mean(), values.std(), *higher])
        rows, columns = np.nonzero(inside)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        patch = np.where(inside, grey, 256)[box]
        counts = graycomatrix(patch, [1], ANGLES, levels=257, symmetric=True)[:256, :256]
        totals = counts.sum(axis=(0, 1), keepdims=True)
        matrix = counts / np.maximum(totals, 1)
        properties = [graycoprops(matrix, name) for name in TEXTURE_NAMES]
        texture.append([float(p.mean()) for p in properties])
    return np.array(intensity), np.array(texture)


def test_features_of_real_nuclei_equal_the_naive_loop(tiles: list[Image]) -> None:
    compared = 0
    for image in tiles:
        crop = np.ascontiguousarray(image[:220, :220])
        labels = ClassicalSegmenter().segment(crop, 0.25)
        if labels.max() == 0:
            continue
        for own, naive in zip(
            nuclear_features(crop, labels), naive_features(crop, labels), strict=True
        ):
            np.testing.assert_allclose(own, naive, rtol=1e-9, atol=1e-9)
        compared += int(labels.max())
    assert compared > 20


def test_ragged_touching_labels_at_the_border_equal_the_naive_loop() -> None:
    random = np.random.default_rng(3)
    labels = keep_by_area(random.integers(0, 4, (23, 31)), 1, 10_000)
    image = random.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    for own, naive in zip(
        nuclear_features(image, labels), naive_features(image, labels), strict=True
    ):
        np.testing.assert_allclose(own, naive, rtol=1e-9, atol=1e-9)


def test_constant_and_single_pixel_nuclei_are_defined() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[1:4, 1:4] = 1
    labels[6, 6] = 2
    intensity, texture = nuclear_features(np.full((8, 8, 3), 77, np.uint8), labels)
    np.testing.assert_array_equal(intensity, [[77, 0, 0, 0]] * 2)
    np.testing.assert_allclose(texture, [[0, 0, 1, 1], [0, 0, 0, 0]])


def test_l1_is_the_mean_over_nuclei_of_summed_differences(tiles: list[Image]) -> None:
    hr = tiles[1]
    sr = np.roll(hr, 1, axis=0)
    labels = ClassicalSegmenter().segment(hr, 0.25)
    own, reference = nuclear_features(sr, labels), nuclear_features(hr, labels)
    expected = [np.abs(a - b).sum(axis=1).mean() for a, b in zip(own, reference, strict=True)]
    assert features_l1(own, reference) == pytest.approx((expected[1], expected[0]))
    assert features_l1(reference, reference) == (0.0, 0.0)
    found = measure(sr, hr, metrics=("l1_texture", "l1_intensity"))
    assert list(found.values()) == pytest.approx([expected[1], expected[0]])


def test_no_nucleus_is_not_a_number_and_gaps_are_refused() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    empty = np.zeros((8, 8), np.int32)
    none = nuclear_features(image, empty)
    assert np.isnan(features_l1(none, none)).all()
    gap = empty.copy()
    gap[0, 0] = 2
    with pytest.raises(UsageError, match="without gaps"):
        nuclear_features(image, gap)
    with pytest.raises(UsageError, match="one size"):
        nuclear_features(image, empty[:4])
