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
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from scipy import fft, io, special

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.weights import store as weights

Array = npt.NDArray[np.float64]
Number = TypeVar("Number", np.float64, np.complex128)

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
BANDS = 6
"""Orientations of the steerable pyramid."""
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
    """Regression trees, a column each: node numbers and features count from 1, 0 is no child."""

    left: npt.NDArray[np.int64]
    right: npt.NDArray[np.int64]
    threshold: Array
    value: Array
    feature: npt.NDArray[np.int64]

    def fits(self, count: int) -> bool:
        """Return whether it takes `count` features and its nodes lead to nodes it has."""
        nodes = len(self.value)
        children = max(self.left.max(initial=0), self.right.max(initial=0))
        return bool(nodes > 0 and self.feature.max(initial=0) <= count and children <= nodes)

    def predict(self, features: Array) -> float:
        """Return the mean of the trees for a vector of features."""
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
    """Three forests, and the four coefficients (constant first) that join their scores."""

    forests: tuple[Forest, Forest, Forest]
    linear: Array


def nrqm(image: Image) -> float:
    """Return NRQM of a (h, w, 3) uint8 RGB image, about 0..10; higher is better.

    NaN for an image without texture. Raises `ModelError` where the forests are missing or wrong,
    `UsageError` for images under 64 px.
    """
    return predict(features(image), load_regression(weights.find("nrqm")[FILE]))


def predict(found: Sequence[Array], regression: Regression) -> float:
    """Return the score of the three vectors of `features`; NaN where one holds a NaN."""
    if not all(np.isfinite(vector).all() for vector in found):
        return math.nan
    scores = [forest.predict(v) for forest, v in zip(regression.forests, found, strict=True)]
    return float(np.array([1.0, *scores]) @ regression.linear)


def features(image: Image) -> tuple[Array, Array, Array]:
    """Return the features of block DCT (18,), pyramid bands (45,) and patches (75,)."""
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
    """Read the authors' file; `ModelError` where it is another."""
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
    """Return the image, and twice half of it."""
    near = math.exp(-1 / (2 * 0.5**2))
    taps = np.array([near, 1.0, near]) / (1 + 2 * near)
    levels = [image]
    for _ in range(2):
        soft = cv2.sepFilter2D(levels[-1], cv2.CV_64F, taps, taps, borderType=cv2.BORDER_CONSTANT)
        levels.append(np.ascontiguousarray(soft[1::2, 1::2]))
    return levels


def _dct_features(image: Array) -> Array:
    """Return shape, spread and anisotropy of the DCT of blocks: worst tenth and mean of each."""
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
    """Return the shape parameter of each row of (n, m), matched by moments: 2 for a Gaussian.

    One of 0.03, 0.031, ..., 10.
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
    """Return shapes of the normalized bands, and how scales and orientations go together."""
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


def steerable_pyramid(image: Array) -> tuple[Array, list[list[Array]]]:
    """Return the high-pass residual and the real oriented bands of two scales.

    Simoncelli and Freeman 1995 with raised cosines in log frequency, as matlabPyrTools builds it:
    `BANDS` bands of each scale, the second at half the size.
    """
    frequencies = [np.arange(-(side // 2), side - side // 2) / (side / 2) for side in image.shape]
    v, u = np.meshgrid(*frequencies, indexing="ij")
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    middle = tuple(side // 2 for side in image.shape)
    radius[middle] = radius[middle[0], middle[1] - 1]
    octave = np.log2(radius)
    spectrum = fft.fftshift(fft.fft2(image))
    high = _spatial(spectrum * _ramp(octave, 0))
    spectrum = spectrum * _opposite(_ramp(octave, 0))
    order = BANDS - 1
    gain = 2**order * math.factorial(order) / math.sqrt(BANDS * math.factorial(2 * order))
    bands: list[list[Array]] = []
    for scale in (1, 2):
        passed = spectrum * _ramp(octave, -scale) * (-1j) ** order
        oriented = []
        for band in range(BANDS):
            turned = (angle - np.pi * band / BANDS + np.pi) % (2 * np.pi) - np.pi
            lobe = np.where(np.abs(turned) < np.pi / 2, np.cos(turned) ** order, 0.0)
            oriented.append(_spatial(passed * (2 * gain * lobe)))
        bands.append(oriented)
        octave, angle = _middle(octave), _middle(angle)
        spectrum = _middle(spectrum) * _opposite(_ramp(octave, -scale))
    return high, bands


def _ramp(octave: Array, shift: int) -> Array:
    """Return the high-pass that rises from 0 to 1 over the octave below 2^shift of Nyquist."""
    rise = np.clip(octave - shift + 1, 0, 1)
    return np.asarray(np.sin(rise * np.pi / 2))


def _opposite(ramp: Array) -> Array:
    """Return the low-pass whose power completes that of a high-pass."""
    return np.asarray(np.sqrt(np.clip(1 - ramp**2, 0, None)))


def _spatial(spectrum: npt.NDArray[np.complex128]) -> Array:
    return np.ascontiguousarray(fft.ifft2(fft.ifftshift(spectrum)).real)


def _middle(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Return the lower half of the frequencies."""
    places = []
    for side in values.shape:
        half = math.ceil((side - 0.5) / 2)
        start = math.ceil((side + 0.5) / 2) - math.ceil((half + 0.5) / 2)
        places.append(slice(start, start + half))
    return values[tuple(places)]


def _normalized_bands(bands: list[list[Array]]) -> list[list[Array]]:
    """Return the bands over the deviation that a Gaussian scale mixture finds around each place.

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
    """Return the root of x' C^-1 x / size for the columns x of (places around, places).

    NaN where they do not span their space, as in an image without texture.
    """
    power, axes = np.linalg.eigh(around @ around.T / around.shape[1])
    if power[0] <= 1e-12 * power[-1]:
        return np.full(around.shape[1], np.nan)
    along = axes.T @ around
    return np.asarray(np.sqrt((along**2 / power[:, None]).sum(axis=0) / size))


def structure(a: Array, b: Array) -> float:
    """Return the mean of SSIM's contrast and structure term of two images, negatives as zero."""
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
    """Return a band enlarged to (rows, columns) by MATLAB's bicubic (a = -0.5)."""
    rows, columns = (_enlarging(a, b) for a, b in zip(image.shape, shape, strict=True))
    return np.asarray(rows @ image @ columns.T)


@lru_cache(maxsize=16)
def _enlarging(source: int, target: int) -> Array:
    """Return the matrix (target, source) that enlarges a line, its ends mirrored."""
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
    """Return the singular values of all 5x5 patches side by side, (25,)."""
    padded = np.pad(image, [(0, -side % 5) for side in image.shape])
    rows, columns = (side // 5 for side in padded.shape)
    patches = padded.reshape(rows, 5, columns, 5).transpose(0, 2, 1, 3).reshape(-1, 25)
    return np.asarray(np.linalg.svd(patches, compute_uv=False))
