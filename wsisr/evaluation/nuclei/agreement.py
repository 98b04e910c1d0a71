"""How well two label images agree on the nuclei of one field.

A nucleus of SR and one of HR are the same where their intersection over union is above 0.5, which
makes matches unique (Kirillov et al. 2019). Precision falls with invented nuclei, recall with lost
ones; panoptic quality (PQ) is the matches' summed IoU over the mean of both counts. Nuclei at the
border count like all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from wsisr.errors import UsageError
from wsisr.evaluation.nuclei.segmenter import Labels, check_labels

MATCH_IOU = 0.5
"""Above it two nuclei are the same."""
OVERLAP_IOU = 0.1
"""From here on two nuclei that do not match count as one that is outlined differently."""


@dataclass(frozen=True)
class NucleiAgreement:
    """How two label images of one field agree; ratios are NaN where nothing can be counted.

    Attributes:
        matches: (k, 2), the labels of each matched pair, SR then HR.
        iou: (k,), intersection over union of each pair, above 0.5.
        sr_best: (SR count,), each nucleus's largest IoU with any of HR, 0 where it touches none.
        hr_best: (HR count,), the same of HR's nuclei with SR's.
        sr_count: how many nuclei SR has.
        hr_count: how many nuclei HR has.
        sr_area: pixels of all nuclei of SR.
        hr_area: pixels of all nuclei of HR.
    """

    matches: npt.NDArray[np.int64]
    iou: npt.NDArray[np.float64]
    sr_best: npt.NDArray[np.float64]
    hr_best: npt.NDArray[np.float64]
    sr_count: int
    hr_count: int
    sr_area: int
    hr_area: int

    @property
    def precision(self) -> float:
        """Gives the share of SR's nuclei that HR has too; what is missing to 1 is invented."""
        return _ratio(len(self.iou), self.sr_count)

    @property
    def recall(self) -> float:
        """Gives the share of HR's nuclei that SR has too; what is missing to 1 is lost."""
        return _ratio(len(self.iou), self.hr_count)

    @property
    def pq(self) -> float:
        """Gives the panoptic quality, 0 to 1 (Kirillov et al. 2019)."""
        return _ratio(float(self.iou.sum()), (self.sr_count + self.hr_count) / 2)

    @property
    def count_difference(self) -> float:
        """Gives (SR count - HR count) / HR count."""
        return _ratio(self.sr_count - self.hr_count, self.hr_count)

    @property
    def area_difference(self) -> float:
        """Gives (SR nuclear area - HR nuclear area) / HR nuclear area."""
        return _ratio(self.sr_area - self.hr_area, self.hr_area)

    def invented(self) -> npt.NDArray[np.int64]:
        """Gives the labels of SR without a match."""
        return np.setdiff1d(np.arange(1, self.sr_count + 1), self.matches[:, 0])

    def lost(self) -> npt.NDArray[np.int64]:
        """Gives the labels of HR without a match."""
        return np.setdiff1d(np.arange(1, self.hr_count + 1), self.matches[:, 1])

    def unmatched(self) -> dict[str, int]:
        """Counts the lost and the invented, and those of them that are only outlined differently.

        Returns:
            {what: count}; outlined differently is what overlaps a nucleus of the other image by
            an IoU from 0.1 to 0.5.
        """
        lost, invented = self.hr_best[self.lost() - 1], self.sr_best[self.invented() - 1]
        return {
            "lost": lost.size,
            "lost_overlapping": int((lost >= OVERLAP_IOU).sum()),
            "invented": invented.size,
            "invented_overlapping": int((invented >= OVERLAP_IOU).sum()),
        }


def compare_nuclei(sr: Labels, hr: Labels) -> NucleiAgreement:
    """Matches the nuclei of two label images of one size.

    Time and memory grow with the pixels and the overlapping pairs, not with the product of the
    counts.

    Args:
        sr: (h, w) int32, 0 background and 1..n without gaps.
        hr: the same of the reference.

    Returns:
        How they agree.

    Raises:
        UsageError: the sizes differ, or an array is no label image.
    """
    check_labels(sr)
    check_labels(hr)
    if sr.shape != hr.shape:
        raise UsageError(f"the label images differ in size: {sr.shape} and {hr.shape}")
    counts = int(sr.max(initial=0)), int(hr.max(initial=0))
    sr_areas, hr_areas, keys, lengths = _overlap_runs(sr, hr, *counts)
    pairs, inverse = np.unique(keys, return_inverse=True)
    intersection = np.bincount(inverse, lengths, pairs.size).astype(np.int64)
    own, reference = np.divmod(pairs, hr_areas.size)
    iou = intersection / (sr_areas[own] + hr_areas[reference] - intersection)
    matched = iou > MATCH_IOU
    sr_best, hr_best = np.zeros(sr_areas.size), np.zeros(hr_areas.size)
    np.maximum.at(sr_best, own, iou)
    np.maximum.at(hr_best, reference, iou)
    return NucleiAgreement(
        matches=np.stack([own[matched], reference[matched]], axis=1),
        iou=iou[matched],
        sr_best=sr_best[1:],
        hr_best=hr_best[1:],
        sr_count=sr_areas.size - 1,
        hr_count=hr_areas.size - 1,
        sr_area=int(sr_areas[1:].sum()),
        hr_area=int(hr_areas[1:].sum()),
    )


@numba.njit(cache=True, nogil=True)
def _overlap_runs(sr, hr, sr_count, hr_count):  # type: ignore[no-untyped-def]
    """Finds the areas of all labels, and each run of a row that lies in a nucleus of both images.

    Returns:
        Areas of SR's and of HR's labels, and of each run its length and its key, sr label *
        (hr_count + 1) + hr label.
    """
    sr_areas, hr_areas = np.zeros(sr_count + 1, np.int64), np.zeros(hr_count + 1, np.int64)
    count = 0
    for y in range(sr.shape[0]):
        own = reference = 0
        for x in range(sr.shape[1]):
            sr_areas[sr[y, x]] += 1
            hr_areas[hr[y, x]] += 1
            both = sr[y, x] != 0 and hr[y, x] != 0
            if both and (sr[y, x] != own or hr[y, x] != reference):
                count += 1
            own, reference = sr[y, x], hr[y, x]
    # counted first: lists as long as the image would cost more than the second visit
    keys, lengths = np.empty(count, np.int64), np.zeros(count, np.int64)
    n = -1
    for y in range(sr.shape[0]):
        before = np.int64(0)
        for x in range(sr.shape[1]):
            key = np.int64(0)
            if sr[y, x] != 0 and hr[y, x] != 0:
                key = np.int64(sr[y, x]) * (hr_count + 1) + hr[y, x]
                if key != before:
                    n += 1
                    keys[n] = key
                lengths[n] += 1
            before = key
    return sr_areas, hr_areas, keys, lengths


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
