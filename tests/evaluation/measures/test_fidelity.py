from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from wsisr.errors import UsageError
from wsisr.evaluation import measure
from wsisr.evaluation.measures import fidelity
from wsisr.evaluation.measures.pixels import Image
from wsisr.resize import area_downsample, bicubic_upsample


def degraded(image: Image, scale: int = 4) -> Image:
    return bicubic_upsample(area_downsample(image, scale), scale)


def test_psnr_and_ssim_equal_scikit_image(tiles: list[Image], noise: Image) -> None:
    for hr in (*tiles, noise):
        sr = degraded(hr)
        assert fidelity.psnr(sr, hr) == pytest.approx(
            peak_signal_noise_ratio(hr, sr, data_range=255), abs=1e-9
        )
        reference = structural_similarity(
            hr,
            sr,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
        )
        assert measure(sr, hr, metrics="ssim")["ssim"] == pytest.approx(reference, abs=1e-9)


def test_psnr_of_a_hand_computed_pair() -> None:
    hr = np.zeros((4, 4, 3), np.uint8)
    sr = hr.copy()
    sr[0, 0, 0] = 48  # one of 48 values off by 48: mean square error 48
    assert fidelity.psnr(sr, hr) == pytest.approx(10 * np.log10(255**2 / 48), abs=1e-12)
    assert fidelity.psnr(hr, hr) == float("inf")


def naive_ms_ssim(sr: Image, hr: Image) -> float:
    """From scikit-image's SSIM with K1 or K2 replaced, scale by scale, channel by channel."""
    exponents = fidelity.MS_SSIM_EXPONENTS
    values = []
    for channel in range(3):
        a, b = sr[..., channel].astype(float), hr[..., channel].astype(float)
        product = 1.0
        for scale, exponent in enumerate(exponents):
            options = {
                "gaussian_weights": True,
                "sigma": 1.5,
                "use_sample_covariance": False,
                "data_range": 255,
            }
            # an enormous C1 makes the luminance term 1 and leaves contrast-structure
            last = scale == len(exponents) - 1
            term = structural_similarity(a, b, K1=0.01 if last else 1e9, **options)
            product *= max(term, 0.0) ** exponent
            a, b = (x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2] for x in (a, b))
            a, b = (x.reshape(x.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (a, b))
        values.append(product)
    return float(np.mean(values))


def test_ms_ssim_equals_a_naive_composition(tiles: list[Image]) -> None:
    hr = tiles[0][:250, :301]
    sr = np.roll(hr, 1, axis=1)
    assert fidelity.ms_ssim(sr, hr) == pytest.approx(naive_ms_ssim(sr, hr), abs=1e-9)
    assert fidelity.ms_ssim(hr, hr) == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    scale=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_downsampled_image_is_consistent_to_rounding(
    rows: int, columns: int, scale: int, seed: int
) -> None:
    shape = (rows * scale, columns * scale, 3)
    hr = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    lr = area_downsample(hr, scale)
    assert lr.shape == (rows, columns, 3)
    assert fidelity.lr_rmse(hr, lr) <= 0.5 + 1e-4


def test_lr_rmse_of_a_constant_offset() -> None:
    lr = np.full((3, 5, 3), 100, np.uint8)
    sr = np.full((12, 20, 3), 107, np.uint8)
    assert fidelity.lr_rmse(sr, lr) == pytest.approx(7.0)


def test_sizes_that_do_not_fit_are_refused() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match="16x16 px and the reference 8x16"):
        fidelity.psnr(image, image[:, :8])
    with pytest.raises(UsageError, match="11x11"):
        fidelity.ssim_means(image[:8, :8], image[:8, :8])
    with pytest.raises(UsageError, match="176"):
        fidelity.ms_ssim(image, image)
    with pytest.raises(UsageError, match="no integer multiple"):
        fidelity.lr_rmse(image, image[:5, :5])
    with pytest.raises(UsageError, match="cannot be averaged"):
        area_downsample(image, 3)
    with pytest.raises(UsageError, match="uint8"):
        fidelity.psnr(image.astype(np.float32), image)  # type: ignore[arg-type]
