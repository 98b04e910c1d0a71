"""Measures without a reference: NIQE, BRISQUE, and an offline sharpness score.

NIQE after Mittal, Soundararajan and Bovik 2013 with the authors' pristine model, in the
conventions of BasicSR: MATLAB luma rounded, 96 px blocks, 7x7 window with replicated borders.
BRISQUE after Mittal, Moorthy and Bovik 2012 with the published support vectors, in the
conventions of the Python package brisque: grey levels in 0..1, zero-padded window, bicubic
halving. Both are trained on photographs: on histology they rank blur well and hallucinated
texture badly, so they never stand alone in a report.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numba
import numpy as np
import numpy.typing as npt
from scipy import special

from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.weights import find_weights

Array = npt.NDArray[np.float64]

NIQE_BLOCK = 96
NIQE_LEAST = (NIQE_BLOCK, 2 * NIQE_BLOCK)
BRISQUE_LEAST = (16, 16)
"""Shorter and longer side in px of the smallest image that each is defined for."""
SHAPES = np.arange(0.2, 10.001, 0.001)
"""Shape parameters that generalized Gaussian fits choose from."""
BRISQUE_MIN = np.array(
    [
        0.336999, 0.019667, 0.230000, -0.125959, 0.000167, 0.000616, 0.231000, -0.125873, 0.000165,
        0.000600, 0.241000, -0.128814, 0.000179, 0.000386, 0.243000, -0.133080, 0.000182, 0.000421,
        0.436998, 0.016929, 0.247000, -0.200231, 0.000104, 0.000834, 0.257000, -0.200017, 0.000112,
        0.000876, 0.257000, -0.155072, 0.000112, 0.000356, 0.258000, -0.154374, 0.000117, 0.000351,
    ]
)  # fmt: skip
"""Range of each feature over the authors' training images, which the support vectors assume."""
BRISQUE_MAX = np.array(
    [
        9.999411, 0.807472, 1.644021, 0.202917, 0.712384, 0.468672, 1.644021, 0.169548, 0.713132,
        0.467896, 1.553016, 0.101368, 0.687324, 0.533087, 1.554016, 0.101000, 0.689177, 0.533133,
        3.639918, 0.800955, 1.096995, 0.175286, 0.755547, 0.399270, 1.095995, 0.155928, 0.751488,
        0.402398, 1.041992, 0.093209, 0.623516, 0.532925, 1.042992, 0.093714, 0.621958, 0.534484,
    ]
)  # fmt: skip


def sharpness(image: Image) -> float:
    """Computes an offline stand-in for a learned blur score; noise raises it too.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        Natural logarithm of the variance of the luma's Laplacian; higher is sharper.

    Raises:
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float(np.log(np.var(cv2.Laplacian(grey, cv2.CV_64F)) + 1e-12))


def niqe(image: Image) -> float:
    """Computes NIQE.

    Args:
        image: (h, w, 3) uint8 RGB of at least two blocks of 96 px.

    Returns:
        Lower is more like a pristine photograph; NaN where fewer than two blocks have texture.

    Raises:
        ModelError: the parameters are missing or wrong.
        UsageError: the array is no RGB image, or too small.
    """
    mean, covariance, window = _niqe_model(find_weights("niqe")["niqe_pris_params.npz"])
    features = niqe_features(image, window)
    features = features[np.isfinite(features).all(axis=1)]
    if len(features) < 2:
        return float("nan")
    difference = mean - features.mean(axis=0)
    pooled = (covariance + np.cov(features, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))


def niqe_features(image: Image, window: Array) -> Array:
    """Computes the 36 natural-scene features of each 96 px block at two scales.

    Args:
        image: (h, w, 3) uint8 RGB.
        window: the 7x7 Gaussian.

    Returns:
        (blocks, 36); rows of blocks without texture hold NaN.

    Raises:
        UsageError: the array is no RGB image, or too small.
    """
    check_image(image, "the image")
    rows, columns = (side // NIQE_BLOCK for side in image.shape[:2])
    if rows * columns < 2 or min(rows, columns) < 1:
        raise UsageError("NIQE needs at least two blocks of 96 px; leave smaller tiles out")
    cropped = image[: rows * NIQE_BLOCK, : columns * NIQE_BLOCK]
    weights_y = np.array([[65.481, 128.553, 24.966]])
    grey = np.rint(cv2.transform(cropped.astype(np.float64), weights_y) / 255.0 + 16.0)
    features = []
    for block in (NIQE_BLOCK, NIQE_BLOCK // 2):
        if block < NIQE_BLOCK:
            grey = _halved(grey)
        normalized = _normalized(grey, window, 1.0, cv2.BORDER_REPLICATE)
        tiles = normalized.reshape(rows, block, columns, block).transpose(2, 0, 1, 3)
        features.append(_niqe_block_features(tiles.reshape(rows * columns, block, block)))
    return np.concatenate(features, axis=1)


def brisque(image: Image) -> float:
    """Computes BRISQUE.

    Args:
        image: (h, w, 3) uint8 RGB, at least 16 px a side.

    Returns:
        About 0 to 100, lower is better; NaN for an image without texture.

    Raises:
        ModelError: the support vectors are missing or wrong.
        UsageError: the array is no RGB image, or too small.
    """
    vectors, coefficients, gamma, rho = _support_vectors(find_weights("brisque")["svm.txt"])
    features = brisque_features(image)
    scaled = -1.0 + 2.0 * (features - BRISQUE_MIN) / (BRISQUE_MAX - BRISQUE_MIN)
    distance = ((vectors - scaled) ** 2).sum(axis=1)
    return float(coefficients @ np.exp(-gamma * distance) - rho)


def brisque_features(image: Image) -> Array:
    """Computes the features of BRISQUE, two scales of 18.

    Args:
        image: (h, w, 3) uint8 RGB, at least 16 px a side.

    Returns:
        (36,) float64.

    Raises:
        UsageError: the array is no RGB image, or too small.
    """
    check_image(image, "the image")
    if min(image.shape[:2]) < 16:
        raise UsageError("BRISQUE needs images of at least 16x16 px; leave smaller tiles out")
    offsets = np.arange(7) - 3
    gaussian = np.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    window = np.outer(gaussian, gaussian) / gaussian.sum() ** 2
    weights_y = np.array([[0.2125, 0.7154, 0.0721]]) / 255.0
    grey = cv2.transform(image.astype(np.float64), weights_y)
    features: list[float] = []
    for _ in range(2):
        normalized = _normalized(grey, window, 1.0 / 255.0, cv2.BORDER_CONSTANT)
        sums = _product_sums(normalized, False)
        features += [feature for n in range(5) for feature in _brisque_fit(sums[n], n > 0)]
        grey = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
    return np.array(features)


def _normalized(grey: Array, window: Array, constant: float, border: int) -> Array:
    """Gives mean-subtracted, contrast-normalized grey levels (MSCN)."""
    # the windows are outer products: two passes of seven taps instead of one of 49
    taps = window.sum(axis=0)
    mean, square = (
        cv2.sepFilter2D(values, cv2.CV_64F, taps, taps, borderType=border)
        for values in (grey, grey * grey)
    )
    _normalize(grey, mean, square, constant)
    return np.asarray(mean)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _normalize(grey, mean, square, constant):  # type: ignore[no-untyped-def]
    """Puts the normalized grey levels where `mean` was."""
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            local = mean[y, x]
            difference = grey[y, x] - local
            # the weights sum to 1 up to rounding, so a flat place would keep a sign of its own
            if abs(difference) < 1e-9:
                difference = 0.0
            mean[y, x] = difference / (np.sqrt(abs(square[y, x] - local * local)) + constant)


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _product_sums(values, wrap):  # type: ignore[no-untyped-def]
    """Sums over the values and their products with four neighbours, (5, 6).

    Rows are the values, then products with the neighbour to the left, above, above left and above
    right; those beyond the border are on the other side with `wrap`, else left out. Columns are
    counts and sums of squares of the negative and of the positive ones, sum of absolute values,
    count of all.
    """
    rows, columns = values.shape
    sums = np.zeros((5, 6))
    ones = np.ones(columns)
    last = columns - 1
    for y in range(rows):
        here = values[y]
        _add_products(here, ones, sums[0])
        _add_products(here[1:], here[:last], sums[1])
        if y > 0 or wrap:
            above = values[y - 1] if y > 0 else values[rows - 1]
            _add_products(here, above, sums[2])
            _add_products(here[1:], above[:last], sums[3])
            _add_products(here[:last], above[1:], sums[4])
            if wrap:
                _add_products(here[:1], here[last:], sums[1])
                _add_products(here[:1], above[last:], sums[3])
                _add_products(here[last:], above[:1], sums[4])
    return sums


@numba.njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def _add_products(a, b, sums):  # type: ignore[no-untyped-def]
    negative = positive = left = right = absolute = 0.0
    for x in range(a.shape[0]):
        product = a[x] * b[x]
        square = product * product
        below = 1.0 if product < 0 else 0.0
        above = 1.0 if product > 0 else 0.0
        negative += below
        positive += above
        left += below * square
        right += above * square
        absolute += abs(product)
    sums[0] += negative
    sums[1] += positive
    sums[2] += left
    sums[3] += right
    sums[4] += absolute
    sums[5] += a.shape[0]


def _niqe_block_features(blocks: Array) -> Array:
    sums = np.array([_product_sums(block, True) for block in blocks])
    shape, left, right = _fit_blocks(sums[:, 0])
    features = [shape, (left + right) / 2]
    for neighbour in range(1, 5):
        shape, left, right = _fit_blocks(sums[:, neighbour])
        ratio = special.gamma(2 / shape) / special.gamma(1 / shape)
        features += [shape, (right - left) * ratio, left, right]
    return np.stack(features, axis=1)


def _fit_blocks(sums: Array) -> tuple[Array, Array, Array]:
    """Fits an asymmetric generalized Gaussian to each block: shape, left and right scale.

    `sums` is (blocks, 6), as `_product_sums` has them.
    """
    negative, positive, left_sum, right_sum, absolute, count = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = np.sqrt(left_sum / negative), np.sqrt(right_sum / positive)
        target = _moment_ratio(left / right, absolute, left_sum + right_sum, count)
    shape = np.where(np.isfinite(target), SHAPES[_nearest(_shape_ratios(), target)], np.nan)
    factor = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    return shape, left * factor, right * factor


def _brisque_fit(sums: Array, with_mean: bool) -> list[float]:
    negative, _, left_sum, right_sum, absolute, count = sums
    if negative in (0, count) or right_sum == 0:
        return [float("nan")] * (4 if with_mean else 2)
    # the package counts zeros as positive
    left, right = np.sqrt(left_sum / negative), np.sqrt(right_sum / (count - negative))
    target = _moment_ratio(left / right, absolute, left_sum + right_sum, count)
    shape = float(np.interp(target, _shape_ratios(), SHAPES))
    if not with_mean:
        return [shape, float(left**2 + right**2) / 2]
    factor = np.sqrt(special.gamma(1 / shape) / special.gamma(3 / shape))
    mean = (right - left) * factor * special.gamma(2 / shape) / special.gamma(1 / shape)
    return [shape, float(mean), float(left**2), float(right**2)]


def _moment_ratio(ratio: Array, absolute: Array, squares: Array, count: Array) -> Array:
    """Gives what `_shape_ratios` is compared with; `ratio` is left over right deviation."""
    moment = (absolute / count) ** 2 / (squares / count)
    return np.asarray(moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2)


@lru_cache(maxsize=1)
def _shape_ratios() -> Array:
    """Gives Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) for every shape a: increasing in a."""
    inverse = 1.0 / SHAPES
    ratios = special.gamma(2 * inverse) ** 2
    return np.asarray(ratios / (special.gamma(inverse) * special.gamma(3 * inverse)))


def _nearest(grid: Array, values: Array) -> npt.NDArray[np.int64]:
    above = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
    below_is_nearer = values - grid[above - 1] <= grid[above] - values
    return np.asarray(above - below_is_nearer, dtype=np.int64)


def _halved(grey: Array) -> Array:
    """Halves the size by MATLAB's antialiased bicubic (a = -0.5, symmetric borders)."""
    distance = np.abs(np.arange(-3.5, 4.0)) / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()
    filtered = cv2.sepFilter2D(
        grey, cv2.CV_64F, taps, taps, anchor=(3, 3), borderType=cv2.BORDER_REFLECT
    )
    rows, columns = (side // 2 * 2 for side in grey.shape)
    return np.ascontiguousarray(filtered[:rows:2, :columns:2])


@lru_cache(maxsize=2)
def _niqe_model(path: Path) -> tuple[Array, Array, Array]:
    with np.load(path, allow_pickle=False) as archive:
        mean, covariance, window = (
            archive[name].astype(np.float64)
            for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
        )
    return mean.ravel(), covariance, window


@lru_cache(maxsize=2)
def _support_vectors(path: Path) -> tuple[Array, Array, float, float]:
    """Reads (vectors, coefficients, gamma, rho) of a libsvm text model with an RBF kernel."""
    header, _, body = path.read_text(encoding="ascii").partition("\nSV\n")
    fields = dict(line.split(" ", 1) for line in header.splitlines())
    if fields.get("svm_type") != "epsilon_svr" or fields.get("kernel_type") != "rbf":
        raise ModelError(f"{path} is no RBF regression model of libsvm; fetch the weights again")
    lines = [line.split() for line in body.splitlines() if line.strip()]
    vectors = np.zeros((len(lines), 36))
    for row, line in enumerate(lines):
        for item in line[1:]:
            index, _, value = item.partition(":")
            vectors[row, int(index) - 1] = float(value)
    coefficients = np.array([float(line[0]) for line in lines])
    return vectors, coefficients, float(fields["gamma"]), float(fields["rho"])
