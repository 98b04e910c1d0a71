"""Stain drift: distances between distributions of haematoxylin and eosin.

Conventions: optical density -log10((value + 1) / 256) per channel, unmixed with the H&E vectors
of Ruifrok and Johnston 2001 (the third the residual orthogonal-by-DAB vector, as scikit-image's
`rgb_from_hed`), in optical density units.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numba
import numpy as np
import numpy.typing as npt

from wsisr.evaluation.measures.pixels import Image, check_image

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Rows: haematoxylin, eosin, DAB; columns: optical density of red, green, blue."""
BINS_PER_UNIT = 512
HISTOGRAM_RANGE = (-4.0, 5.0)
"""Optical densities; uint8 input cannot leave it."""
FRACTION_BITS = 18
"""Bits of a place between two bins: integers add faster, and all bins fit into 32 bits."""
BINS = round((HISTOGRAM_RANGE[1] - HISTOGRAM_RANGE[0]) * BINS_PER_UNIT)


def hed(image: Image) -> npt.NDArray[np.float32]:
    """Unmixes an image into haematoxylin, eosin and residual.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (h, w, 3) float32, in optical density.

    Raises:
        UsageError: the array is no RGB image.
    """
    return _unmixed(image, slice(None))


def haematoxylin(image: Image) -> npt.NDArray[np.float32]:
    """Gives the first channel of `hed` alone.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (h, w) float32, in optical density.

    Raises:
        UsageError: the array is no RGB image.
    """
    return _unmixed(image, slice(1))


def _unmixed(image: Image, stains: slice) -> npt.NDArray[np.float32]:
    check_image(image, "the image")
    density = cv2.LUT(image, _density_table())
    weights = np.linalg.inv(RGB_FROM_HED).T[stains].astype(np.float32)
    return np.asarray(cv2.transform(density, weights))


def distance(own: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    """Computes the mean Wasserstein-1 distance of the three stain distributions.

    Places do not matter, so the images may differ in size.

    Args:
        own: a result of `hed_histograms`.
        reference: another.

    Returns:
        Optical density, 0 for equal distributions.
    """
    difference = np.abs(np.cumsum(own - reference, axis=1)).sum(axis=1) / BINS_PER_UNIT
    return float(difference.mean())


def hed_histograms(image: Image) -> npt.NDArray[np.float64]:
    """Counts the three stain distributions.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (3, bins) float64, histograms that sum to 1.

    Raises:
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    pixels = np.ascontiguousarray(image).reshape(-1, 3)
    return np.asarray(_count_stains(pixels, _bin_table()) / pixels.shape[0], np.float64)


@numba.njit(cache=True, nogil=True)
def _count_stains(pixels, table):  # type: ignore[no-untyped-def]
    """Counts (n, 3) pixels by bin of each stain; `table` as `_bin_table` gives it."""
    counts = np.zeros((3, BINS), np.int64)
    for i in range(pixels.shape[0]):
        red, green, blue = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        for n in range(3):
            position = table[0, red, n] + table[1, green, n] + table[2, blue, n]
            counts[n, position >> FRACTION_BITS] += 1
    return counts


@lru_cache(maxsize=1)
def _density_table() -> npt.NDArray[np.float32]:
    return np.asarray(-np.log10((np.arange(256) + 1.0) / 256.0), np.float32)


@lru_cache(maxsize=1)
def _bin_table() -> npt.NDArray[np.int32]:
    """Gives each channel's part in the bin of each stain, (channel, value, stain), fixed point."""
    density = -np.log10((np.arange(256) + 1.0) / 256.0)
    amounts = density[:, None] * np.linalg.inv(RGB_FROM_HED)[:, None]
    bins = (amounts - HISTOGRAM_RANGE[0] / 3.0) * BINS_PER_UNIT
    return np.asarray(np.rint(bins * 2**FRACTION_BITS), np.int32)
