"""Pixel fidelity: PSNR, SSIM, MS-SSIM, and consistency with the low-resolution input.

Conventions (they move results more than models do, so they are stated here once):

* PSNR over all pixels and the three channels at once, peak 255, no border cut.
* SSIM after Wang et al. 2004: Gaussian window 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population
  (not sample) covariance, each RGB channel alone, averaged over channels and over all pixels at
  least 5 px from the border. Equal to scikit-image's `structural_similarity(channel_axis=2,
  gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)`.
* MS-SSIM after Wang et al. 2003: five scales with the published exponents, 2x2 averages between.
* Downsampling is the area average by the scale; upsampling for the baseline is bicubic with
  a = -0.75 (OpenCV and PyTorch), half-pixel centres, rounded and clipped to uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numba
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures.pixels import Image, check_image, check_pair
from wsisr.resize import area_mean, halve_plane

Channels = Sequence[npt.NDArray[np.uint8] | npt.NDArray[np.float64]]
"""The planes of an image, each (rows, columns)."""


class SsimMeans(NamedTuple):
    """Means over all windows for each channel.

    Attributes:
        full: (3,), SSIM.
        structure: (3,), its contrast-structure factor.
    """

    full: npt.NDArray[np.float64]
    structure: npt.NDArray[np.float64]


WINDOW_RADIUS = 5
WINDOW_SIZE = 2 * WINDOW_RADIUS + 1
WINDOW_SIGMA = 1.5
_WEIGHTS = np.exp(-0.5 * (np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1) / WINDOW_SIGMA) ** 2)
TAPS = tuple(float(weight) for weight in _WEIGHTS / _WEIGHTS.sum())
"""Weights of the Gaussian window along one axis."""
MS_SSIM_LEAST = WINDOW_SIZE * 16
"""Side in px of the smallest image that has a window at the fifth scale."""
C1 = (0.01 * 255.0) ** 2
C2 = (0.03 * 255.0) ** 2
MS_SSIM_EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Wang, Simoncelli and Bovik 2003, finest scale first."""


def psnr(sr: Image, hr: Image) -> float:
    """Computes the peak signal-to-noise ratio.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.

    Returns:
        dB, infinite for equal images.

    Raises:
        UsageError: an array is no RGB image, or sizes differ.
    """
    check_pair(sr, hr)
    # L2 of uint8 differences up to 2**53 is exact in double precision
    mse = float(cv2.norm(sr, hr, cv2.NORM_L2SQR)) / sr.size
    return float("inf") if mse == 0 else float(10.0 * np.log10(255.0**2 / mse))


def ssim_means(sr: Image, hr: Image) -> SsimMeans:
    """Computes the means that SSIM and the finest scale of `ms_ssim` rest on.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.

    Returns:
        The means of each channel.

    Raises:
        UsageError: an array is no RGB image, sizes differ, or a side is under 11 px.
    """
    check_pair(sr, hr)
    if min(sr.shape[:2]) < WINDOW_SIZE:
        raise UsageError("SSIM needs images of at least 11x11 px; leave smaller tiles out")
    return _ssim_means(_channels(sr), _channels(hr))


def ms_ssim(sr: Image, hr: Image, finest: SsimMeans | None = None) -> float:
    """Computes the multi-scale SSIM, per channel, then averaged.

    A negative contrast-structure mean counts as 0.

    Args:
        sr: (h, w, 3) uint8 RGB, at least 176 px a side (11 px at the fifth scale).
        hr: the reference, of the same size.
        finest: `ssim_means` of the pair, where it is known already.

    Returns:
        0 to 1.

    Raises:
        UsageError: an array is no RGB image, sizes differ, or a side is under 176 px.
    """
    check_pair(sr, hr)
    if min(sr.shape[:2]) < MS_SSIM_LEAST:
        raise UsageError("MS-SSIM needs images of at least 176x176 px; leave smaller tiles out")
    a, b = _channels(sr), _channels(hr)
    product = np.ones(3)
    for scale, exponent in enumerate(MS_SSIM_EXPONENTS):
        full, structure = finest if finest and scale == 0 else _ssim_means(a, b)
        coarsest = scale == len(MS_SSIM_EXPONENTS) - 1
        product *= np.maximum(full if coarsest else structure, 0.0) ** exponent
        if not coarsest:
            a, b = ([halve_plane(plane) for plane in planes] for planes in (a, b))
    return float(product.mean())


def lr_rmse(sr: Image, lr: Image) -> float:
    """Computes how far the area average of SR lies from its input.

    The averages are not rounded, so an ideal result measures the rounding of `lr` alone, 0.29.

    Args:
        sr: (h * s, w * s, 3) uint8 RGB, s a whole number.
        lr: (h, w, 3) uint8 RGB.

    Returns:
        Root mean square error in grey levels.

    Raises:
        UsageError: an array is no RGB image, or SR's size is no whole multiple of LR's.
    """
    check_image(sr, "the super-resolved image")
    check_image(lr, "the low-resolution image")
    scale = sr.shape[0] // lr.shape[0]
    if scale < 1 or sr.shape[:2] != (lr.shape[0] * scale, lr.shape[1] * scale):
        raise UsageError(
            f"the super-resolved image ({sr.shape[1]}x{sr.shape[0]} px) is no integer multiple of "
            f"the low-resolution one ({lr.shape[1]}x{lr.shape[0]} px)"
        )
    misfit = area_mean(sr, sr.shape[1] // lr.shape[1]) - lr.astype(np.float32)
    return float(np.sqrt(np.mean(misfit**2, dtype=np.float64)))


def _channels(image: Image) -> Channels:
    return [np.asarray(plane, np.uint8) for plane in cv2.split(image)]


def _ssim_means(a: Channels, b: Channels) -> SsimMeans:
    sums = np.array([_ssim_sums(x, y) for x, y in zip(a, b, strict=True)])
    count = (a[0].shape[0] - 2 * WINDOW_RADIUS) * (a[0].shape[1] - 2 * WINDOW_RADIUS)
    return SsimMeans(sums[:, 0] / count, sums[:, 1] / count)


# the taps are compile-time constants, so that the short loops unroll and the long ones vectorize;
# NumPy's rule for division by zero leaves no branch in them
@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _ssim_sums(a, b):  # type: ignore[no-untyped-def]
    """Sums SSIM and contrast-structure over all windows inside, one row of windows at a time."""
    columns = a.shape[1] - WINDOW_SIZE + 1
    products = np.empty((4, a.shape[1]))
    lines = np.empty((WINDOW_SIZE, 4, columns))
    local = np.empty((4, columns))
    full = structure = 0.0
    for y in range(a.shape[0]):
        for x in range(a.shape[1]):
            p, q = np.float64(a[y, x]), np.float64(b[y, x])
            products[0, x] = p
            products[1, x] = q
            products[2, x] = p * p + q * q
            products[3, x] = p * q
        across = lines[y % WINDOW_SIZE]
        for n in range(4):
            for x in range(columns):
                total = 0.0
                for k in range(WINDOW_SIZE):
                    total += TAPS[k] * products[n, x + k]
                across[n, x] = total
        if y < WINDOW_SIZE - 1:
            continue
        for n in range(4):
            for x in range(columns):
                total = 0.0
                for k in range(WINDOW_SIZE):
                    total += TAPS[k] * lines[(y + 1 + k) % WINDOW_SIZE, n, x]
                local[n, x] = total
        for x in range(columns):
            squares = local[0, x] ** 2 + local[1, x] ** 2
            product = local[0, x] * local[1, x]
            cs = (2.0 * (local[3, x] - product) + C2) / (local[2, x] - squares + C2)
            structure += cs
            full += cs * (2.0 * product + C1) / (squares + C1)
    return full, structure
