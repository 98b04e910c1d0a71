from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from skimage.color import rgb_from_hed

from wsisr.evaluation import measure
from wsisr.evaluation.measures import stain
from wsisr.evaluation.measures.pixels import Image


def test_vectors_are_those_of_scikit_image() -> None:
    np.testing.assert_allclose(stain.RGB_FROM_HED, rgb_from_hed)


def shift(sr: Image, hr: Image) -> float:
    return measure(sr, hr, metrics="hed_shift")["hed_shift"]


def test_unmixing_returns_the_stains_that_were_mixed() -> None:
    amounts = np.array([0.4, 0.7, 0.1])
    density = amounts @ rgb_from_hed
    pixel = np.rint(256 * 10.0**-density - 1).astype(np.uint8).reshape(1, 1, 3)
    np.testing.assert_allclose(stain.hed(pixel)[0, 0], amounts, atol=0.02)
    assert stain.haematoxylin(pixel)[0, 0] == pytest.approx(stain.hed(pixel)[0, 0, 0], abs=1e-6)


def test_shift_equals_scipy_to_the_bin_width(tiles: list[Image]) -> None:
    for hr in tiles:
        sr = np.clip(hr * np.array([0.96, 1.0, 1.04]), 0, 255).astype(np.uint8)
        a, b = stain.hed(sr).reshape(-1, 3), stain.hed(hr).reshape(-1, 3)
        expected = np.mean([wasserstein_distance(a[:, c], b[:, c]) for c in range(3)])
        assert shift(sr, hr) == pytest.approx(expected, abs=1 / stain.BINS_PER_UNIT)


def test_places_do_not_matter_and_all_values_fit() -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert shift(values[::-1].copy(), values) == 0.0
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).T.reshape(1, -1, 3)
    histograms = stain.hed_histograms(corners.astype(np.uint8))
    np.testing.assert_allclose(histograms.sum(axis=1), 1.0)
