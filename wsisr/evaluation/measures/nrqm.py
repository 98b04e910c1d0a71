"""NRQM (Ma et al. 2017): a measure learnt from people's scores of upscaled photographs.

Three kinds of statistics of the luma go each through a random forest, and the three scores through
a linear model; a high score is good. The forests are the authors' (MATLAB file), the conventions
those of pyiqa, by which the field quotes it: BT.601 luma of 0..255 rounded, zero padding, MATLAB's
symmetric bicubic resizing. On histology it knows no more of nuclei than NIQE does.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft, io, special

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.measures.steerable import BANDS, steerable_pyramid
from wsisr.evaluation.weights import find_weights

Array = npt.NDArray[np.float64]

FILE = "NRQM_model.mat"
LEAST_SIDE = 64
"""Smaller images leave no middle to the coarse bands of the pyramid."""
UNREADABLE = (
    OSError, EOFError, LookupError, TypeError, ValueError, zlib.error, io.matlab.MatReadError,
    NotImplementedError,
)  # fmt: skip
"""What SciPy and the search for the fields raise on another file, a torn one or (the last) one of
MATLAB 7.3, which SciPy does not read."""
COUNTS = (18, 45, 75)
"""Features of each kind."""
DCT_BLOCK, DCT_STRIDE = 7, 3
ORIENTATIONS = (
    ((0, range(1, 7)), (1, range(2, 7)), (2, range(4, 7)), (3, range(5, 7))),
    (
        (1, range(1, 2)), (2, range(2, 4)), (3, range(2, 5)), (4, range(3, 7)),
        (5, range(4, 7)), (6, range(4, 7)),
    ),
)  # fmt: skip
"""Coefficients (row, columns) of flat and of diagonal detail; those of upright detail mirror the
first."""
EPSILON, EPSILON_ORIENTED, EPSILON_GSM = 1e-7, 1e-8, 1e-12
GUARD = 16
"""Border of the first scale's bands that is left out, px."""
C2 = (0.03 * 255) ** 2
"""Constant of SSIM's structure term."""


@dataclass(frozen=True)
class Forest:
    """Regression trees, a column each: node numbers and features count from 1, 0 is no child.

    Attributes:
        left: number of each node's left child.
        right: number of its right child.
        threshold: largest value of the feature that goes left.
        value: what a leaf predicts.
        feature: number of the feature that a node looks at.
    """

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    threshold: Array
    value: Array
    feature: npt.NDArray[np.int64]

    def fits(self, count: int) -> bool:
        """Tells whether it takes `count` features and its nodes lead to nodes it has."""
        nodes = len(self.value)
        children = max(self.left.max(initial=0), self.right.max(initial=0))
        return bool(nodes > 0 and self.feature.max(initial=0) <= count and children <= nodes)

    def predict(self, features: Array) -> float:
        """Gives the mean of the trees for a vector of features."""
        trees = np.arange(self.left.shape[1])
        node = np.zeros_like(trees)
        for _ in range(len(self.left)):
            chosen = features[self.feature[node, trees] - 1]
            goes_left = chosen <= self.threshold[node, trees]
            child = np.where(goes_left, self.left[node, trees], self.right[node, trees]) - 1
            if (child < 0).all():
                break
            node = np.where(child < 0, node, child)
        return float(self.value[node, trees].mean())


@dataclass(frozen=True)
class Regression:
    """Three forests and the linear model over them.

    Attributes:
        forests: one for each kind of features.
        linear: (4,), the coefficients that join their scores, constant first.
    """

    forests: tuple[Forest, Forest, Forest]
    linear: Array


def nrqm(image: Image) -> float:
    """Computes NRQM.

    Args:
        image: (h, w, 3) uint8 RGB, at least 64 px a side.

    Returns:
        About 0 to 10, higher is better; NaN for an image without texture.

    Raises:
        ModelError: the forests are missing or wrong.
        UsageError: the array is no RGB image, or a side is under 64 px.
    """
    return predict(features(image), load_regression(find_weights("nrqm")[FILE]))


def predict(found: Sequence[Array], regression: Regression) -> float:
    """Computes the score of features.

    Args:
        found: the three vectors of `features`.
        regression: the forests.

    Returns:
        The score, NaN where a vector holds a NaN.
    """
    if not all(np.isfinite(vector).all() for vector in found):
        return math.nan
    scores = [forest.predict(v) for forest, v in zip(regression.forests, found, strict=True)]
    return float(np.array([1.0, *scores]) @ regression.linear)


def features(image: Image) -> tuple[Array, Array, Array]:
    """Computes the features of block DCT, pyramid bands and patches.

    Args:
        image: (h, w, 3) uint8 RGB, at least 64 px a side.

    Returns:
        (18,), (45,) and (75,) float64.

    Raises:
        UsageError: the array is no RGB image, or a side is under 64 px.
    """
    check_image(image, "the image")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise UsageError(f"NRQM needs at least {LEAST_SIDE} px a side; leave smaller tiles out")
    luma = np.rint(cv2.transform(image.astype(np.float64), np.array([[0.299, 0.587, 0.114]])))
    levels = _gaussian_pyramid(luma / 255)
    local = np.concatenate([_dct_features(level) for level in levels])
    patches = np.concatenate([_singular_values(level) for level in levels])
    return local, _band_features(luma), patches


@lru_cache(maxsize=2)
def load_regression(path: Path) -> Regression:
    """Reads the authors' file.

    Args:
        path: the file.

    Returns:
        The forests.

    Raises:
        ModelError: it is another file.
    """
    try:
        model = io.loadmat(path)["model"][0, 0]
        forests = []
        for number in range(3):
            trees = model["rf"].ravel()[number][0, 0]
            left, right, feature = (trees[n].astype(np.int64) for n in ("lDau", "rDau", "mbest"))
            threshold, value = (trees[n].astype(np.float64) for n in ("upper", "avnode"))
            forests.append(Forest(left, right, threshold, value, feature))
        linear = model["linear"].astype(np.float64).ravel()
    except UNREADABLE as error:
        raise ModelError(f"{path} holds no forests of NRQM ({error}); fetch it again") from error
    fits = [forest.fits(count) for forest, count in zip(forests, COUNTS, strict=True)]
    if len(linear) != 4 or not all(fits):
        raise ModelError(f"{path} holds forests of other features; fetch it again")
    return Regression((forests[0], forests[1], forests[2]), linear)


def _gaussian_pyramid(image: Array) -> list[Array]:
    """Gives the image, and twice half of it."""
    near = math.exp(-1 / (2 * 0.5**2))
    taps = np.array([near, 1.0, near]) / (1 + 2 * near)
    levels = [image]
    for _ in range(2):
        soft = cv2.sepFilter2D(levels[-1], cv2.CV_64F, taps, taps, borderType=cv2.BORDER_CONSTANT)
        levels.append(np.ascontiguousarray(soft[1::2, 1::2]))
    return levels


def _dct_features(image: Array) -> Array:
    """Gives shape, spread and anisotropy of the DCT of blocks: worst tenth and mean of each."""
    pads = []
    for side in image.shape:
        pad = (math.ceil(side / DCT_STRIDE) - 1) * DCT_STRIDE + DCT_BLOCK - side
        pads.append((pad // 2, pad - pad // 2))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, pads), (DCT_BLOCK,) * 2)
    blocks = windows[::DCT_STRIDE, ::DCT_STRIDE].reshape(-1, DCT_BLOCK, DCT_BLOCK)
    coefficients = fft.dctn(blocks, axes=(1, 2), norm="ortho")
    varying = coefficients.reshape(len(blocks), -1)[:, 1:]
    flat, diagonal = (
        np.concatenate([coefficients[:, row, list(columns)] for row, columns in places], axis=1)
        for places in ORIENTATIONS
    )
    upright = np.concatenate(
        [coefficients[:, list(rows), column] for column, rows in ORIENTATIONS[0]], axis=1
    )
    oriented = [_spread(values, EPSILON_ORIENTED) for values in (flat, diagonal, upright)]
    shape = np.sort(generalized_gaussian_shape(varying))
    spread = np.sort(_spread(varying, EPSILON))
    anisotropy = np.sort(np.var(oriented, axis=0, ddof=1))
    first, last = math.ceil(0.1 * len(blocks)) + 1, math.floor(0.9 * len(blocks))
    return np.array(
        [
            shape[:first].mean(), shape.mean(), spread[last:].mean(), spread.mean(),
            anisotropy[last:].mean(), anisotropy.mean(),
        ]
    )  # fmt: skip


def _spread(values: Array, epsilon: float) -> Array:
    absolute = np.abs(values)
    return np.asarray(absolute.std(axis=1, ddof=1) / (absolute.mean(axis=1) + epsilon))


def generalized_gaussian_shape(values: Array) -> Array:
    """Fits the shape parameter of each row by moments: 2 for a Gaussian.

    Args:
        values: (n, m).

    Returns:
        (n,), each one of 0.03, 0.031, ..., 10.
    """
    shapes = np.arange(0.03, 10.001, 0.001)
    logs = special.gammaln(1 / shapes) + special.gammaln(3 / shapes)
    ratios = np.exp(logs - 2 * special.gammaln(2 / shapes))[::-1]  # falls with the shape
    centred = values - values.mean(axis=1, keepdims=True)
    found = values.var(axis=1, ddof=1) / (np.abs(centred).mean(axis=1) ** 2 + EPSILON)
    above = np.clip(np.searchsorted(ratios, found), 1, len(ratios) - 1)
    nearer_below = found - ratios[above - 1] < ratios[above] - found
    return np.asarray(shapes[::-1][above - nearer_below])


def _band_features(luma: Array) -> Array:
    """Gives shapes of the normalized bands, and how scales and orientations go together."""
    high, bands = steerable_pyramid(luma)
    flat = [band for scale in bands for band in scale]
    normalized = _normalized_bands(bands)
    values = [band.reshape(1, -1) for scale in normalized for band in scale]
    across = [np.concatenate(values[n::BANDS], axis=1) for n in range(BANDS)]
    shapes = [generalized_gaussian_shape(row)[0] for row in (*values, *across)]
    scales = [structure(_resized(band, high.shape), high) for band in flat]
    fine = normalized[0]
    orientations = [structure(fine[i], fine[j]) for i in range(BANDS) for j in range(i + 1, BANDS)]
    return np.array([*shapes, *scales, *orientations])


def _normalized_bands(bands: list[list[Array]]) -> list[list[Array]]:
    """Divides the bands by the deviation that a Gaussian scale mixture finds around each place.

    The neighbourhood is 3x3 px of the band, the place in the other orientations, and in the coarser
    scale where there is one (Portilla et al. 2003).
    """
    found: list[list[Array]] = []
    for number, scale in enumerate(bands):
        guard, coarser = GUARD >> number, bands[number + 1 : number + 2]
        normalized = []
        for n, band in enumerate(scale):
            rows, columns = band.shape
            around = [
                band[y : rows - 2 + y, x : columns - 2 + x] for y in range(3) for x in range(3)
            ]
            around += [_resized(other[n], band.shape)[1:-1, 1:-1] for other in coarser]
            size = len(around)
            around += [other[1:-1, 1:-1] for m, other in enumerate(scale) if m != n]
            deviation = _mixture_deviation(np.stack([a.ravel() for a in around]), size)
            centre = band[1:-1, 1:-1]
            deviation = deviation.reshape(centre.shape)
            inside = deviation != 0
            value = (centre - centre.mean()) * inside / (deviation * inside + EPSILON_GSM)
            value = value[guard:-guard, guard:-guard]
            normalized.append(np.ascontiguousarray(value - value.mean()))
        found.append(normalized)
    return found


def _mixture_deviation(around: Array, size: int) -> Array:
    """Gives the root of x' C^-1 x / size for the columns x of (places around, places).

    NaN where they do not span their space, as in an image without texture.
    """
    power, axes = np.linalg.eigh(around @ around.T / around.shape[1])
    if power[0] <= 1e-12 * power[-1]:
        return np.full(around.shape[1], np.nan)
    along = axes.T @ around
    return np.asarray(np.sqrt((along**2 / power[:, None]).sum(axis=0) / size))


def structure(a: Array, b: Array) -> float:
    """Computes the mean of SSIM's contrast and structure term of two images, negatives as zero.

    Args:
        a: (h, w) float64.
        b: the other.

    Returns:
        The mean, at least 0.
    """
    offsets = np.arange(11) - 5
    taps = np.exp(-(offsets**2) / (2 * 1.5**2))
    taps /= taps.sum()

    def mean(values: Array) -> Array:
        return np.asarray(cv2.sepFilter2D(values, cv2.CV_64F, taps, taps))[5:-5, 5:-5]

    mean_a, mean_b = mean(a), mean(b)
    variance = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    term = (2 * (mean(a * b) - mean_a * mean_b) + C2) / (variance + C2)
    return float(np.clip(term, 0, None).mean())


def _resized(image: Array, shape: tuple[int, ...]) -> Array:
    """Enlarges a band to (rows, columns) by MATLAB's bicubic (a = -0.5)."""
    rows, columns = (_enlarging(a, b) for a, b in zip(image.shape, shape, strict=True))
    return np.asarray(rows @ image @ columns.T)


@lru_cache(maxsize=16)
def _enlarging(source: int, target: int) -> Array:
    """Gives the matrix (target, source) that enlarges a line, its ends mirrored."""
    place = (np.arange(target) + 0.5) * source / target - 0.5
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        index = np.floor(place).astype(np.int64) + offset
        distance = np.abs(place - index)
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        taps = np.where(distance <= 1, near, np.where(distance <= 2, far, 0.0))
        mirrored = np.where(index < 0, -1 - index, index)
        mirrored = np.where(mirrored >= source, 2 * source - 1 - mirrored, mirrored)
        np.add.at(matrix, (np.arange(target), mirrored), taps)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


def _singular_values(image: Array) -> Array:
    """Gives the singular values of all 5x5 patches side by side, (25,)."""
    padded = np.pad(image, [(0, -side % 5) for side in image.shape])
    rows, columns = (side // 5 for side in padded.shape)
    patches = padded.reshape(rows, 5, columns, 5).transpose(0, 2, 1, 3).reshape(-1, 25)
    return np.asarray(np.linalg.svd(patches, compute_uv=False))
