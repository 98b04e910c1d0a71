"""Finds nuclei without a network: a threshold on the stain, then a watershed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numba
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.measures import Image, check_image, check_pair, haematoxylin
from wsisr.evaluation.nuclei.agreement import MATCH_IOU
from wsisr.evaluation.nuclei.segmenter import Labels, ReferenceNuclei

LEVELS_PER_PX = 64
"""How finely the watershed tells depths apart."""


@dataclass(frozen=True)
class ClassicalSegmenter:
    """Finds nuclei by a threshold on the haematoxylin density, then a watershed; needs no weights.

    The threshold is the larger of the local mean and Otsu's value, never under `density_floor`
    (a field without nuclei has no second class for Otsu to find). Against a reference it is
    taken from HR and applied to both: SR is judged by HR's criterion, not by one blur has moved.

    Attributes:
        blur_um: sigma of the Gaussian on the density, um.
        local_mean_um: side of the square of the local mean, um.
        density_floor: least threshold, optical density.
        opening_um: radius of the opening, um.
        hole_um2: largest hole that is filled, um2.
        peak_distance_um: least distance of two seeds, um.
        least_radius_um: least depth of a seed, um.
        area_um2: smallest and largest nucleus, um2.
    """

    searches = True
    uses_torch = False
    blur_um: float = 0.5
    local_mean_um: float = 50.0
    density_floor: float = 0.1
    opening_um: float = 0.875
    hole_um2: float = 60.0
    peak_distance_um: float = 2.5
    least_radius_um: float = 0.5
    area_um2: tuple[float, float] = (12.0, 250.0)

    @property
    def convention(self) -> str:
        """Gives the settings in one line."""
        return (
            f"classical: haematoxylin OD, Gaussian {self.blur_um} um, threshold "
            f"max(mean over {self.local_mean_um:g} um, Otsu, {self.density_floor}) taken from HR, "
            f"opening {self.opening_um} um, watershed of the distance transform, "
            f"{self.area_um2[0]:g} to {self.area_um2[1]:g} um2, matches at IoU > {MATCH_IOU}"
        )

    def segment(self, image: Image, mpp: float) -> Labels:
        """Finds the nuclei of one image.

        Args:
            image: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            The label image.

        Raises:
            UsageError: the array is no image, or the resolution is too coarse.
        """
        check_image(image, "the image")
        density = self._density(image, mpp)
        return self._label(density > self._threshold(density, mpp), mpp)

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Finds HR's nuclei; those of other images of the field come by HR's threshold.

        Args:
            hr: (h, w, 3) uint8 RGB.
            mpp: um/px, at most 2.

        Returns:
            HR's nuclei, and the way to find others.

        Raises:
            UsageError: the array is no image, or the resolution is too coarse.
        """
        check_image(hr, "the reference image")
        density = self._density(hr, mpp)
        threshold = self._threshold(density, mpp)

        def find(image: Image) -> Labels:
            check_pair(image, hr)
            return self._label(self._density(image, mpp) > threshold, mpp)

        return ReferenceNuclei(self._label(density > threshold, mpp), find)

    def _density(self, image: Image, mpp: float) -> npt.NDArray[np.float32]:
        if not 0 < mpp <= 2:
            raise UsageError(f"nuclei cannot be found at {mpp} um/px; give a finer level, <= 2")
        return np.asarray(cv2.GaussianBlur(haematoxylin(image), (0, 0), self.blur_um / mpp))

    def _threshold(self, density: npt.NDArray[np.float32], mpp: float) -> npt.NDArray[np.float32]:
        grey = np.clip(density * 127.5, 0, 255).astype(np.uint8)
        otsu = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0] / 127.5
        side = _odd(self.local_mean_um / mpp)
        mean = cv2.blur(density, (side, side), borderType=cv2.BORDER_REFLECT)
        return np.asarray(np.maximum(mean, np.float32(max(otsu, self.density_floor))))

    def _label(self, mask: npt.NDArray[np.bool_], mpp: float) -> Labels:
        binary = mask.astype(np.uint8)
        binary = cv2.morphologyEx(binary, cv2.MORPH_OPEN, _disc(self.opening_um / mpp))
        _fill_holes(binary, self.hole_um2 / mpp**2)
        if binary.all():
            # without background nothing has an outline, and no place a distance from it
            return np.zeros(binary.shape, np.int32)
        # a nucleus cut by the border is as deep there as if it went on
        padded = cv2.copyMakeBorder(binary, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        depth = cv2.GaussianBlur(depth, (0, 0), 0.375 / mpp)
        around = _offsets(self.peak_distance_um / mpp)
        peaks = _peaks(depth, binary, self.least_radius_um / mpp, around)
        labels = cv2.connectedComponents(peaks, connectivity=8)[1]
        _flood(labels, depth, binary)
        least, most = self.area_um2
        return keep_by_area(labels, least / mpp**2, most / mpp**2)


def keep_by_area(labels: npt.NDArray[np.integer], least: float, most: float) -> Labels:
    """Keeps the labels whose area lies in a range, and renumbers them from 1 in order.

    Args:
        labels: label image.
        least: smallest area, px.
        most: largest area, px.

    Returns:
        (h, w) int32, without gaps.

    Raises:
        UsageError: the array is no label image.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise UsageError("a label image has two axes of whole numbers from 0 on")
    if labels.max(initial=0) > labels.size:
        # most numbers are not in use, and a table of all could be larger than the memory
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + int(values[0] != 0)
    count = int(labels.max(initial=0))
    return np.asarray(_keep_by_area(labels, count, float(least), float(most)), dtype=np.int32)


@numba.njit(cache=True, nogil=True)
def _keep_by_area(labels, count, least, most):  # type: ignore[no-untyped-def]
    areas = np.zeros(count + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            areas[labels[y, x]] += 1
    renumbered = np.zeros(count + 1, np.int32)
    kept = 0
    for n in range(1, count + 1):
        if least <= areas[n] <= most:
            kept += 1
            renumbered[n] = kept
    result = np.empty(labels.shape, np.int32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            result[y, x] = renumbered[labels[y, x]]
    return result


@numba.njit(cache=True, nogil=True)
def _fill_holes(mask, area):  # type: ignore[no-untyped-def]
    """Sets the parts of the mask's outside that are smaller than `area` px, in place.

    Parts connect by four neighbours and may touch the border. The outside is joined run by run
    of a row, the runs of a part in a tree: there are far fewer runs than pixels.
    """
    lines, starts, ends = _outside_runs(mask)
    areas, parents = ends - starts, np.arange(lines.size)
    first = above = 0
    for run in range(lines.size):
        if run > 0 and lines[run] != lines[run - 1]:
            above, first = first, run
        while above < first and (lines[above] < lines[run] - 1 or ends[above] <= starts[run]):
            above += 1
        other = above
        while other < first and starts[other] < ends[run]:
            one, two = _root(parents, other), _root(parents, run)
            if one != two:
                parents[max(one, two)] = min(one, two)
                areas[min(one, two)] += areas[max(one, two)]
            other += 1
    for run in range(lines.size):
        if areas[_root(parents, run)] < area:
            mask[lines[run], starts[run] : ends[run]] = 1


@numba.njit(cache=True, nogil=True)
def _outside_runs(mask):  # type: ignore[no-untyped-def]
    """Finds the runs of zeros in each row: their rows, first columns and the columns after them."""
    rows, columns = mask.shape
    count = 0
    for y in range(rows):
        inside = True
        for x in range(columns):
            if mask[y, x] == 0 and inside:
                count += 1
            inside = mask[y, x] != 0
    lines, starts = np.empty(count, np.int64), np.empty(count, np.int64)
    ends = np.empty(count, np.int64)
    n = 0
    for y in range(rows):
        inside = True
        for x in range(columns):
            if mask[y, x] != 0:
                inside = True
                continue
            if inside:
                lines[n], starts[n] = y, x
                n += 1
            ends[n - 1] = x + 1
            inside = False
    return lines, starts, ends


@numba.njit(cache=True, nogil=True)
def _root(parents, n):  # type: ignore[no-untyped-def]
    while parents[n] != n:
        parents[n] = parents[parents[n]]
        n = parents[n]
    return n


@numba.njit(cache=True, nogil=True)
def _peaks(depth, mask, least, around):  # type: ignore[no-untyped-def]
    """Marks the places in the mask deeper than `least` that none of the places `around` tops."""
    rows, columns = depth.shape
    peaks = np.zeros((rows, columns), np.uint8)
    for y in range(rows):
        for x in range(columns):
            here = depth[y, x]
            if mask[y, x] == 0 or here <= least:
                continue
            highest = True
            for k in range(around.shape[0]):
                v, u = y + around[k, 0], x + around[k, 1]
                if 0 <= v < rows and 0 <= u < columns and depth[v, u] > here:
                    highest = False
                    break
            if highest:
                peaks[y, x] = 1
    return peaks


@numba.njit(cache=True, nogil=True)
def _flood(labels, depth, mask):  # type: ignore[no-untyped-def]
    """Lets the labels grow from the deepest place upwards until they fill the mask, in place.

    Watershed with four neighbours after Meyer 1991: one queue for each 1/64 px of depth, first
    in, first out. The queues are linked lists through the pixels. A border of places outside the
    mask spares each step the question whether it leaves the image. Depths beyond the sides of the
    image, infinite ones and NaN among them, are cut to what the queues are there for.
    """
    rows, columns = depth.shape
    deepest = (rows + columns) * LEVELS_PER_PX
    width = columns + 2
    grown = np.full((rows + 2) * width, -1, np.int32)
    levels = np.zeros((rows + 2) * width, np.int32)
    level = 0
    for y in range(rows):
        start = (y + 1) * width + 1
        for x in range(columns):
            # in this order a NaN becomes 0
            levels[start + x] = min(max(0.0, depth[y, x] * LEVELS_PER_PX), deepest)
            level = max(level, levels[start + x])
            if mask[y, x] > 0:
                grown[start + x] = labels[y, x]
    first = np.full(level + 1, -1, np.int32)
    last = np.full(level + 1, -1, np.int32)
    following = np.empty(grown.size, np.int32)
    for place in range(grown.size):
        if grown[place] > 0:
            _append(place, levels[place], first, last, following)
    while level >= 0:
        here = first[level]
        if here < 0:
            level -= 1
            continue
        first[level] = following[here]
        for step in (-width, -1, 1, width):
            there = here + step
            if grown[there] == 0:
                grown[there] = grown[here]
                _append(there, levels[there], first, last, following)
                level = max(level, levels[there])
    for y in range(rows):
        start = (y + 1) * width + 1
        for x in range(columns):
            labels[y, x] = max(grown[start + x], 0)


@numba.njit(cache=True, nogil=True)
def _append(place, level, first, last, following):  # type: ignore[no-untyped-def]
    following[place] = -1
    if first[level] < 0:
        first[level] = place
    else:
        following[last[level]] = place
    last[level] = place


def _odd(size: float) -> int:
    return max(1, round((size - 1) / 2) * 2 + 1)


@lru_cache(maxsize=16)
def _offsets(radius: float) -> npt.NDArray[np.int64]:
    """Lists (rows, columns) to each place of a disc, nearest first, (n, 2)."""
    disc = _disc(radius)
    places = np.argwhere(disc) - disc.shape[0] // 2
    # most places have a deeper neighbour next to them, and the search for one ends there
    return np.asarray(places[np.argsort((places**2).sum(axis=1), kind="stable")], np.int64)


@lru_cache(maxsize=16)
def _disc(radius: float) -> npt.NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
