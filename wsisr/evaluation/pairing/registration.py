"""Bringing two scans of the same glass onto one grid, and refusing where that fails.

First a similarity from SIFT matches at about 2 um/px (Lowe's ratio test, RANSAC), then local
shifts at full resolution by phase correlation in windows spread over the tissue, an affine fit to
them without outliers, and a second set of shifts that measures what the fit left over. Misalignment
by half a pixel already costs more than a decibel of PSNR, so the residual is part of every report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsisr.errors import OptionError, UsageError
from wsisr.evaluation.pairing.features import match_overviews
from wsisr.evaluation.pairing.shifts import local_shifts
from wsisr.parsing import read_json_object
from wsisr.slides import Slide, overview

COARSE_MPP = 2.0
COARSE_SIDE = 4096
"""Largest side, in px, of the overview that features are found in: bounds time and memory."""
ACCEPTED_RESIDUAL = 0.5
"""Pixels of SR: above it full-reference measures compare different tissue."""
SNAP_WITHIN = 0.5
"""A fit this close to a whole-pixel translation, in px at every corner, may be one."""
SNAP_LOSS = 0.03
"""Residual, in px, that a whole-pixel translation may add before the fit is kept instead."""

Points = npt.NDArray[np.float64]
"""(n, 2): x, y."""


@dataclass(frozen=True)
class Alignment:
    """Where SR's pixels lie in HR: `hr = matrix @ (x, y, 1)`, level-0 pixel centres in both.

    Attributes:
        matrix: (2, 3), from SR to HR.
        inliers: SIFT matches that agree on the similarity; 0 where the transform was given.
        windows: squares whose local shift could be measured.
        residual_px: median length of the shifts that remain, in px of SR; NaN where none was
            measured.
        residual_p95_px: 95th percentile of those lengths.
    """

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    inliers: int
    windows: int
    residual_px: float
    residual_p95_px: float

    @property
    def accepted(self) -> bool:
        """Tells whether full-reference measures make sense: a residual of at most 0.5 px."""
        return self.residual_px <= ACCEPTED_RESIDUAL


def load_transform(path: Path) -> npt.NDArray[np.float64]:
    """Reads a transform from a JSON file `{"matrix": [[a, b, c], [d, e, f]]}`.

    Args:
        path: the file.

    Returns:
        (2, 3) float64, from SR's level-0 px to HR's.

    Raises:
        OptionError: the file is something else.
    """
    try:
        matrix = np.array(read_json_object(path)["matrix"], dtype=np.float64)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise OptionError("transform", path, f'not a JSON file with "matrix": {error}') from error
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise OptionError("transform", path, "must hold two rows of three finite numbers")
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        raise OptionError("transform", path, "maps the slide onto a line; check its numbers")
    return matrix


def register(
    sr: Slide,
    hr: Slide,
    sr_mpp: float | None = None,
    hr_mpp: float | None = None,
    transform: npt.NDArray[np.float64] | None = None,
) -> Alignment:
    """Finds where SR lies in HR.

    Memory: two overviews of at most 4096 px a side, what features take in a part of 1280 px, and
    two squares of 256 px.

    Args:
        sr: the result.
        hr: the real scan.
        sr_mpp: um/px of SR's level 0, in place of its own.
        hr_mpp: um/px of HR's level 0, in place of its own.
        transform: (2, 3), from SR's level-0 px to HR's. It is taken as it is, and only its
            residual is measured.

    Returns:
        The alignment with its residual.

    Raises:
        UsageError: a pixel size is unknown.
        SlideError: the slides do not show the same tissue.
    """
    if transform is None:
        matrix, inliers = _found(sr, hr, sr_mpp, hr_mpp)
        whole = _whole_pixel(sr, matrix)
    else:
        matrix, inliers, whole = transform, 0, None
    lengths = _shift_lengths(sr, hr, matrix)
    if whole is not None:
        lengths_whole = _shift_lengths(sr, hr, whole)
        if len(lengths_whole) and np.median(lengths_whole) <= np.median(lengths) + SNAP_LOSS:
            matrix, lengths = whole, lengths_whole
    matrix = matrix + 0.0  # no negative zeros in the report
    return Alignment(
        matrix=((*map(float, matrix[0]),), (*map(float, matrix[1]),)),  # type: ignore[arg-type]
        inliers=inliers,
        windows=len(lengths),
        residual_px=float(np.median(lengths)) if len(lengths) else math.nan,
        residual_p95_px=float(np.percentile(lengths, 95)) if len(lengths) else math.nan,
    )


def _found(
    sr: Slide, hr: Slide, sr_mpp: float | None, hr_mpp: float | None
) -> tuple[npt.NDArray[np.float64], int]:
    """Finds the matrix from SR to HR, and the number of features that agree on it."""
    sr_size, hr_size = pixel_size(sr, sr_mpp, "sr"), pixel_size(hr, hr_mpp, "hr")
    coarse = _coarse_mpp(sr, sr_size, hr, hr_size)
    similarity, inliers = match_overviews(
        overview(sr, coarse / sr_size), overview(hr, coarse / hr_size)
    )
    matrix = _to_base(similarity, coarse / sr_size, coarse / hr_size)
    return _refine(sr, hr, matrix), inliers


def _shift_lengths(
    sr: Slide, hr: Slide, matrix: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.asarray(np.hypot(*local_shifts(sr, hr, matrix)[1].T))


def pixel_size(slide: Slide, given: float | None, side: str) -> float:
    """Tells the pixel size of a slide's level 0.

    Args:
        slide: the slide.
        given: what the user says, in um/px; it wins.
        side: `sr` or `hr`, for the message.

    Returns:
        um/px.

    Raises:
        UsageError: neither the user nor the slide says it.
    """
    size = given if given is not None else slide.mpp
    if size is None or not size > 0:
        raise UsageError(f"{slide.path} records no pixel size; give it as <{side}_mpp>")
    return size


def _refine(sr: Slide, hr: Slide, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # the second round reads HR resampled nearly right, where phase correlation is unbiased
    for _ in range(2):
        centres, shifts = local_shifts(sr, hr, matrix)
        if len(centres) < 3:
            return matrix
        fit = _robust_affine if len(centres) >= 8 else _mean_shift
        correction = fit(centres, shifts)
        matrix = np.column_stack(
            [
                matrix[:, :2] @ correction[:, :2],
                matrix[:, :2] @ correction[:, 2] + matrix[:, 2],
            ]
        )
    return matrix


def _whole_pixel(sr: Slide, matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """Finds the whole-pixel translation that the fit differs from by its own noise only.

    A result made from the scan's own pixels lies exactly on its grid; there resampling would blur
    the reference for nothing. None where the fit is no such translation anywhere on the slide.
    """
    centre = np.array([(sr.width - 1) / 2, (sr.height - 1) / 2])
    offset = np.rint(matrix[:, :2] @ centre + matrix[:, 2] - centre)
    whole = np.column_stack([np.eye(2), offset])
    corners = np.array([[x, y, 1.0] for x in (0, sr.width) for y in (0, sr.height)])
    deviation = np.abs(corners @ (matrix - whole).T).max()
    return whole if deviation < SNAP_WITHIN else None


def _robust_affine(centres: Points, shifts: Points) -> npt.NDArray[np.float64]:
    """Fits the (2, 3) affine taking centres to centres + shifts, outliers left out."""
    design = np.column_stack([centres, np.ones(len(centres))])
    keep = np.ones(len(centres), dtype=bool)
    for _ in range(5):
        solution = np.linalg.lstsq(design[keep], (centres + shifts)[keep], rcond=None)[0]
        error = np.hypot(*(design @ solution - centres - shifts).T)
        keep = error <= max(3 * float(np.median(error[keep])), 0.05)
    return np.asarray(solution.T)


def _mean_shift(_: Points, shifts: Points) -> npt.NDArray[np.float64]:
    return np.column_stack([np.eye(2), np.median(shifts, axis=0)])


def _coarse_mpp(sr: Slide, sr_mpp: float, hr: Slide, hr_mpp: float) -> float:
    sides = (max(sr.width, sr.height) * sr_mpp, max(hr.width, hr.height) * hr_mpp)
    # small fields have too few features at 2 um/px; large ones would not fit into memory
    fine = min(sides) / 1024
    return max(min(COARSE_MPP, fine), sr_mpp, hr_mpp, max(sides) / COARSE_SIDE)


def _to_base(
    similarity: npt.NDArray[np.float64], sr_factor: float, hr_factor: float
) -> npt.NDArray[np.float64]:
    """Puts the similarity between overviews into level-0 pixel centres of both slides."""
    linear = similarity[:, :2] * hr_factor / sr_factor
    # an overview pixel's centre c lies at (c + 0.5) * factor - 0.5 of level 0
    centre = np.full(2, 0.5)
    offset = (similarity[:, 2] + centre) * hr_factor - centre
    offset += linear @ centre - similarity[:, :2] @ centre * hr_factor
    return np.column_stack([linear, offset])
