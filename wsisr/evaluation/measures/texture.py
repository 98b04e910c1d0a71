"""Intensity and texture of each nucleus, and the paper's L1 metrics on them.

V_intensity holds mean, standard deviation, skewness and kurtosis of the grey levels inside a
nucleus; V_texture contrast, dissimilarity, homogeneity and energy of its grey-level co-occurrence
matrix. Both images are measured at the nuclei found in HR. The paper leaves the details open;
here: BT.601 luma rounded to 8 bit, 256 levels, distance 1, the angles 0, 45, 90 and 135 degrees
each with a symmetric normalised matrix of its own whose properties are averaged (scikit-image's
definitions, energy = square root of the angular second moment), pairs inside the nucleus only,
population moments, excess kurtosis (0 for a constant nucleus, like its skewness).
"""

from __future__ import annotations

import cv2
import numba
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.nuclei import Labels, check_labels

TEXTURE_NAMES = ("contrast", "dissimilarity", "homogeneity", "energy")
OFFSETS = ((0, 1), (-1, 1), (-1, 0), (-1, -1))
"""(rows, columns) to the neighbour at 0, 45, 90 and 135 degrees."""

SIMILARITY = 1.0 / (1.0 + np.arange(256.0) ** 2)
"""What a pair adds to homogeneity, by the difference of its levels."""

Features = npt.NDArray[np.float64]
"""(nuclei, 4), in label order."""


def grey_levels(image: Image) -> npt.NDArray[np.uint8]:
    """Gives the luma rounded to 8 bit, as OpenCV's RGB to grey conversion.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (h, w) uint8.

    Raises:
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def nuclear_features(image: Image, labels: Labels) -> tuple[Features, Features]:
    """Computes V_intensity and V_texture of every nucleus, in one pass over each nucleus's box.

    Memory: one table of 256x256.

    Args:
        image: (h, w, 3) uint8 RGB.
        labels: (h, w), 0 background and 1..n without gaps.

    Returns:
        Intensity and texture, each (nuclei, 4) float64.

    Raises:
        UsageError: the sizes differ, or a label is missing.
    """
    check_labels(labels)
    grey = grey_levels(image)
    if grey.shape != labels.shape:
        raise UsageError(f"labels are {labels.shape}, the image is {grey.shape}; crop to one size")
    labels = np.ascontiguousarray(labels, dtype=np.int32)
    boxes = _boxes(labels)
    offsets = np.array(OFFSETS, dtype=np.int64)
    return _intensity(grey, labels, boxes), _texture(grey, labels, boxes, offsets, SIMILARITY)


def features_l1(
    own: tuple[Features, Features], reference: tuple[Features, Features]
) -> tuple[float, float]:
    """Computes L1 texture and L1 intensity: sums over the four features, means over the nuclei.

    Args:
        own: (intensity, texture) of the result, as `nuclear_features` gives them.
        reference: those of the same nuclei in the scan.

    Returns:
        (L1 texture, L1 intensity), NaN where there is no nucleus.
    """
    if not len(reference[0]):
        return float("nan"), float("nan")
    intensity, texture = (
        float(np.abs(a - b).sum(axis=1).mean()) for a, b in zip(own, reference, strict=True)
    )
    return texture, intensity


def _boxes(labels: Labels) -> npt.NDArray[np.int64]:
    boxes = np.asarray(_label_boxes(labels, int(labels.max(initial=0))), dtype=np.int64)
    if (boxes[:, 2] == 0).any():
        raise UsageError("nuclei must be labelled 1..n without gaps; relabel them first")
    return boxes


@numba.njit(cache=True, nogil=True)
def _label_boxes(labels, count):  # type: ignore[no-untyped-def]
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, 0], boxes[:, 1] = labels.shape
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            n = labels[y, x] - 1
            if n >= 0:
                boxes[n, 0] = min(boxes[n, 0], y)
                boxes[n, 1] = min(boxes[n, 1], x)
                boxes[n, 2] = max(boxes[n, 2], y + 1)
                boxes[n, 3] = max(boxes[n, 3], x + 1)
    return boxes


@numba.njit(cache=True, nogil=True)
def _intensity(grey, labels, boxes):  # type: ignore[no-untyped-def]
    values = np.zeros((boxes.shape[0], 4))
    for n in range(boxes.shape[0]):
        top, left, bottom, right = boxes[n]
        count, total = 0, 0.0
        for y in range(top, bottom):
            for x in range(left, right):
                if labels[y, x] == n + 1:
                    count += 1
                    total += grey[y, x]
        mean = total / count
        second = third = fourth = 0.0
        for y in range(top, bottom):
            for x in range(left, right):
                if labels[y, x] == n + 1:
                    d = grey[y, x] - mean
                    second += d * d
                    third += d * d * d
                    fourth += d * d * d * d
        variance = second / count
        values[n, 0] = mean
        values[n, 1] = np.sqrt(variance)
        if variance > 0:
            values[n, 2] = third / count / variance**1.5
            values[n, 3] = fourth / count / variance**2 - 3.0
    return values


@numba.njit(cache=True, nogil=True)
def _texture(grey, labels, boxes, offsets, similarity):  # type: ignore[no-untyped-def]
    columns = grey.shape[1]
    values = np.zeros((boxes.shape[0], 4))
    # how often each pair of levels, the smaller one times 256 plus the larger, was met
    pairs = np.zeros(256 * 256, np.int32)
    met = np.empty(0, np.int32)
    for n in range(boxes.shape[0]):
        top, left, bottom, right = boxes[n]
        if (bottom - top) * (right - left) > met.size:
            met = np.empty((bottom - top) * (right - left), np.int32)
        for k in range(offsets.shape[0]):
            dy, dx = offsets[k]
            count = 0
            contrast = dissimilarity = np.int64(0)
            homogeneity = moment = 0.0
            for y in range(max(top, -dy), bottom):
                for x in range(max(left, -dx), min(right, columns - dx)):
                    if labels[y, x] == n + 1 and labels[y + dy, x + dx] == n + 1:
                        a, b = np.int64(grey[y, x]), np.int64(grey[y + dy, x + dx])
                        d = abs(a - b)
                        contrast += d * d
                        dissimilarity += d
                        homogeneity += similarity[d]
                        pair = min(a, b) * 256 + max(a, b)
                        pairs[pair] += 1
                        met[count] = pair
                        count += 1
            if count == 0:
                continue
            # the second visit sums each pair's table entry once and leaves the table empty
            for i in range(count):
                pair = met[i]
                c = float(pairs[pair])
                # off the diagonal a symmetric matrix holds each half of the pairs
                moment += c * c if pair // 256 == pair % 256 else c * c / 2.0
                pairs[pair] = 0
            values[n, 0] += contrast / count / offsets.shape[0]
            values[n, 1] += dissimilarity / count / offsets.shape[0]
            values[n, 2] += homogeneity / count / offsets.shape[0]
            values[n, 3] += np.sqrt(moment) / count / offsets.shape[0]
    return values
