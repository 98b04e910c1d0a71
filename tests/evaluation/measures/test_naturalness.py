from __future__ import annotations

import cv2
import numpy as np
import pytest
import skimage.data
from scipy import ndimage, optimize, signal, special

from wsisr.errors import UsageError
from wsisr.evaluation import weights
from wsisr.evaluation.measures import naturalness, perceptual
from wsisr.evaluation.measures.pixels import Image

needs_weights = pytest.mark.skipif(
    any(weights.why_missing(name) for name in ("niqe", "brisque", "st_lpips")),
    reason="WSISR_WEIGHTS holds no niqe, brisque and st_lpips",
)


@pytest.fixture(scope="module")
def textured() -> Image:
    """Real tissue without flat places, 288x300: a little noise on scikit-image's IHC picture."""
    image = skimage.data.immunohistochemistry()[100:388, 60:360].astype(float)
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image * 0.9 + 6 + noise, 0, 255).astype(np.uint8)


def gaussian(size: int, sigma: float) -> np.ndarray:
    line = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return np.outer(line, line) / line.sum() ** 2


def naive_niqe_block(block: np.ndarray) -> list[float]:
    def fit(values: np.ndarray) -> tuple[float, float, float]:
        left = np.sqrt(np.mean(values[values < 0] ** 2))
        right = np.sqrt(np.mean(values[values > 0] ** 2))
        g = left / right
        target = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        target *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        a = np.arange(0.2, 10.001, 0.001)
        ratio = special.gamma(2 / a) ** 2 / special.gamma(1 / a) / special.gamma(3 / a)
        shape = a[np.argmin((ratio - target) ** 2)]
        factor = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
        return shape, left * factor, right * factor

    shape, left, right = fit(block)
    features = [shape, (left + right) / 2]
    for moved in (
        np.roll(block, 1, axis=1),
        np.roll(block, 1, axis=0),
        np.roll(block, (1, 1), axis=(0, 1)),
        np.roll(block, (1, -1), axis=(0, 1)),
    ):
        shape, left, right = fit(block * moved)
        mean = (right - left) * special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, mean, left, right]
    return features


def test_niqe_features_equal_a_naive_loop(textured: Image) -> None:
    window = gaussian(7, 7 / 6)
    grey = np.rint(textured @ np.array([65.481, 128.553, 24.966]) / 255 + 16)[:288, :288]
    found = naturalness.niqe_features(textured, window)
    mean = ndimage.convolve(grey, window, mode="nearest")
    deviation = np.sqrt(np.abs(ndimage.convolve(grey**2, window, mode="nearest") - mean**2))
    difference = np.where(np.abs(grey - mean) < 1e-9, 0, grey - mean)
    normalized = difference / (deviation + 1)
    expected = [
        naive_niqe_block(normalized[y : y + 96, x : x + 96])
        for x in range(0, 288, 96)
        for y in range(0, 288, 96)
    ]
    np.testing.assert_allclose(found[:, :18], expected, rtol=1e-9, atol=1e-9)
    assert found.shape == (9, 36)


def naive_brisque(grey: np.ndarray) -> list[float]:
    window = gaussian(7, 7 / 6)
    mean = signal.convolve2d(grey, window, "same")
    deviation = np.sqrt(np.abs(mean**2 - signal.convolve2d(grey**2, window, "same")))
    m = (grey - mean) / (deviation + 1 / 255)
    features: list[float] = []
    for values in (
        m,
        m[:, :-1] * m[:, 1:],
        m[:-1] * m[1:],
        m[:-1, :-1] * m[1:, 1:],
        m[1:, :-1] * m[:-1, 1:],
    ):
        left = np.sqrt(np.mean(values[values < 0] ** 2))
        right = np.sqrt(np.mean(values[values >= 0] ** 2))
        g = left / right
        target = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
        target *= (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2

        def excess(a: float, target: float = target) -> float:
            ratio = special.gamma(2 / a) ** 2 / special.gamma(1 / a) / special.gamma(3 / a)
            return float(ratio - target)

        shape = optimize.brentq(excess, 0.2, 10)
        if not features:
            features = [shape, (left**2 + right**2) / 2]
            continue
        factor = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
        ratio = special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, (right - left) * factor * ratio, left**2, right**2]
    return features


def test_brisque_features_equal_a_naive_loop(textured: Image) -> None:
    grey = textured @ np.array([0.2125, 0.7154, 0.0721]) / 255
    half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    expected = naive_brisque(grey) + naive_brisque(half)
    np.testing.assert_allclose(naturalness.brisque_features(textured), expected, atol=1e-5)


@needs_weights
def test_scores_equal_the_reference_implementations(textured: Image) -> None:
    # from basicsr 1.4.2, brisque 0.2.0 and stlpips-pytorch 0.0.2 on this very image
    assert naturalness.niqe(textured) == pytest.approx(NIQE_BASICSR, abs=2e-3)
    assert naturalness.brisque(textured) == pytest.approx(BRISQUE_PACKAGE, abs=2e-3)
    crop = np.ascontiguousarray(textured[:192, :192])
    shifted = np.roll(crop, 3, axis=0)
    assert perceptual.st_lpips(crop, shifted) == pytest.approx(ST_LPIPS_PACKAGE, rel=1e-4)


NIQE_BASICSR = 3.194643
ST_LPIPS_PACKAGE = 0.0312600806
BRISQUE_PACKAGE = 33.358960


@needs_weights
def test_blur_and_shift_order_as_they_should(textured: Image) -> None:
    crop = np.ascontiguousarray(textured[:192, :192])
    blurred = cv2.GaussianBlur(crop, (0, 0), 2.0)
    assert naturalness.niqe(cv2.GaussianBlur(textured, (0, 0), 2.0)) > naturalness.niqe(textured)
    assert naturalness.brisque(blurred) > naturalness.brisque(crop)
    assert perceptual.st_lpips(crop, crop) == 0.0
    assert perceptual.st_lpips(np.roll(crop, 1, axis=1), crop) < 0.3 * perceptual.st_lpips(
        blurred, crop
    )


def test_sharpness_falls_with_blur(textured: Image) -> None:
    blurred = cv2.GaussianBlur(textured, (0, 0), 1.0)
    grey = cv2.cvtColor(textured, cv2.COLOR_RGB2GRAY).astype(float)
    laplacian = ndimage.laplace(grey, mode="mirror")
    assert naturalness.sharpness(textured) == pytest.approx(np.log(laplacian.var()), abs=1e-9)
    assert naturalness.sharpness(blurred) < naturalness.sharpness(textured)


def test_flat_and_small_images() -> None:
    flat = np.full((200, 200, 3), 130, np.uint8)
    assert np.isnan(naturalness.niqe_features(flat, gaussian(7, 7 / 6))).all(axis=1).all()
    assert np.isnan(naturalness.brisque_features(flat)).any()
    with pytest.raises(UsageError, match="96 px"):
        naturalness.niqe_features(flat[:100, :100], gaussian(7, 7 / 6))
    with pytest.raises(UsageError, match="16x16"):
        naturalness.brisque_features(flat[:8, :8])
