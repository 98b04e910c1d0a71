"""Finds the motion between two overviews from SIFT features (Lowe 2004)."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import SlideError
from wsisr.evaluation.measures import Image

PART, PART_MARGIN = 1024, 128
"""Features are found in parts of that side, px: SIFT takes 240 bytes a pixel."""
MOST_FEATURES = 8000
LEAST_INLIERS = 12

Points = npt.NDArray[np.float64]
"""(n, 2): x, y."""


def match_overviews(sr: Image, hr: Image) -> tuple[npt.NDArray[np.float64], int]:
    """Finds the similarity between two overviews: ratio test, then RANSAC.

    Args:
        sr: (h, w, 3) uint8 RGB overview of SR.
        hr: overview of HR at the same um/px.

    Returns:
        The (2, 3) matrix from SR's overview to HR's, and how many matches agree on it.

    Raises:
        SlideError: fewer than 12 matches agree, or the similarity is implausible (scale off by
            more than 20 %): different tissue, or no overlap.
    """
    (own, own_descriptors), (other, other_descriptors) = find_features(sr), find_features(hr)
    refused = (
        "the two slides do not show the same tissue, or no common part of it: {}; check the files "
        "or give a <transform>"
    )
    if min(len(own), len(other)) < LEAST_INLIERS:
        raise SlideError(refused.format("too few features to compare"))
    candidates = cv2.BFMatcher(cv2.NORM_L2).knnMatch(own_descriptors, other_descriptors, k=2)
    good = [first for first, second in candidates if first.distance < 0.8 * second.distance]
    if len(good) < LEAST_INLIERS:
        raise SlideError(refused.format(f"{len(good)} features match, {LEAST_INLIERS} are needed"))
    source = own[[match.queryIdx for match in good]]
    target = other[[match.trainIdx for match in good]]
    cv2.setRNGSeed(0)
    matrix, mask = cv2.estimateAffinePartial2D(
        source, target, ransacReprojThreshold=3.0, maxIters=5000, confidence=0.999
    )
    inliers = 0 if matrix is None else int(mask.sum())
    if inliers < max(LEAST_INLIERS, 0.05 * len(good)):
        raise SlideError(refused.format(f"{inliers} of {len(good)} features agree on one motion"))
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if not 0.8 < scale < 1.25:
        raise SlideError(
            refused.format(f"beside their pixel sizes they differ in scale by {scale:.2f}")
        )
    return np.asarray(matrix, dtype=np.float64), inliers


def find_features(image: Image) -> tuple[Points, npt.NDArray[np.float32]]:
    """Finds the 8000 strongest features, part by part, so that memory is that of a part.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        Their places, (n, 2) x and y, and SIFT descriptors, (n, 128).
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=MOST_FEATURES, contrastThreshold=0.02)
    places, strengths, descriptors = [np.empty((0, 2))], [np.empty(0)], [np.empty((0, 128))]
    for y in range(0, grey.shape[0], PART):
        for x in range(0, grey.shape[1], PART):
            top, left = max(0, y - PART_MARGIN), max(0, x - PART_MARGIN)
            part = grey[top : y + PART + PART_MARGIN, left : x + PART + PART_MARGIN]
            points, vectors = sift.detectAndCompute(part, None)
            if not points:
                continue
            place = np.array([point.pt for point in points]) + np.array([left, top])
            # each feature counts in the part it lies in, not in a neighbour's margin
            inside = ((place >= (x, y)) & (place < (x + PART, y + PART))).all(axis=1)
            places.append(place[inside])
            strengths.append(np.array([point.response for point in points])[inside])
            descriptors.append(vectors[inside])
    strongest = np.argsort(-np.concatenate(strengths), kind="stable")[:MOST_FEATURES]
    return (
        np.concatenate(places)[strongest],
        np.concatenate(descriptors)[strongest].astype(np.float32),
    )
