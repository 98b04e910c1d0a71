"""Stain drift: distances between distributions of haematoxylin and eosin.

Conventions: optical density -log10((value + 1) / 256) per channel, unmixed with the H&E vectors
of Ruifrok and Johnston 2001 (the third the residual orthogonal-by-DAB vector, as scikit-image's
`rgb_from_hed`), in optical density units.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.evaluation.pixels import Image, check_image

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Rows: haematoxylin, eosin, DAB; columns: optical density of red, green, blue."""
BINS_PER_UNIT = 512
HISTOGRAM_RANGE = (-4.0, 5.0)
"""Optical densities; uint8 input cannot leave it."""


def hed(image: Image) -> npt.NDArray[np.float32]:
    """Return haematoxylin, eosin and residual amounts, (h, w, 3) float32, in optical density."""
    check_image(image, "the image")
    density = cv2.LUT(image, _density_table())
    return np.asarray(cv2.transform(density, np.linalg.inv(RGB_FROM_HED).T.astype(np.float32)))


def hed_shift(sr: Image, hr: Image) -> float:
    """Return the mean Wasserstein-1 distance of the three stain distributions.

    In optical density units, 0 for equal colour distributions. Places do not matter, so the
    images may differ in size. Raises `UsageError` for anything but uint8 RGB.
    """
    return distance(hed_histograms(sr), hed_histograms(hr))


def distance(own: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    """Return `hed_shift` of two results of `hed_histograms`."""
    difference = np.abs(np.cumsum(own - reference, axis=1)).sum(axis=1) / BINS_PER_UNIT
    return float(difference.mean())


def hed_histograms(image: Image) -> npt.NDArray[np.float64]:
    """Return the three stain distributions as histograms that sum to 1, (3, bins)."""
    stains = hed(image)
    low, high = HISTOGRAM_RANGE
    bins = round((high - low) * BINS_PER_UNIT)
    histograms = [
        cv2.calcHist([stains], [channel], None, [bins], [low, high]).ravel() for channel in range(3)
    ]
    return np.asarray(histograms, np.float64) / np.float64(image.shape[0] * image.shape[1])


@lru_cache(maxsize=1)
def _density_table() -> npt.NDArray[np.float32]:
    return np.asarray(-np.log10((np.arange(256) + 1.0) / 256.0), np.float32)
