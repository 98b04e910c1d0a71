"""Bringing two scans of the same glass onto one grid, and refusing where that fails.

First a similarity from SIFT matches at about 2 um/px (Lowe's ratio test, RANSAC), then local
shifts at full resolution by phase correlation in windows spread over the tissue, an affine fit to
them without outliers, and a second set of shifts that measures what the fit left over. Misalignment
by half a pixel already costs more than a decibel of PSNR, so the residual is part of every report.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures import Image
from wsisr.slides import Slide, overview

COARSE_MPP = 2.0
COARSE_SIDE = 4096
"""Largest side, in px, of the overview that features are found in: bounds time and memory."""
PART, PART_MARGIN = 1024, 128
"""Features are found in parts of that side, px: SIFT takes 240 bytes a pixel."""
MOST_FEATURES = 8000
LEAST_INLIERS = 12
WINDOW = 256
"""Side of the windows that local shifts are measured in, in px of SR."""
MOST_WINDOWS = 48
LEAST_PEAK = 0.08
"""Phase correlation response under which a window has nothing to lock on."""
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
    """Where SR's pixels lie in HR: `hr = matrix @ (x, y, 1)`, level-0 pixel centres in both."""

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    inliers: int
    """SIFT matches that agree on the similarity; 0 where the transform was given."""
    windows: int
    """Windows whose local shift could be measured."""
    residual_px: float
    """Median length of the shifts that remain, in px of SR; NaN where none was measured."""
    residual_p95_px: float

    @property
    def scale(self) -> float:
        """Return how many HR pixels one SR pixel is wide."""
        (a, b, _), (c, d, _) = self.matrix
        return math.sqrt(abs(a * d - b * c))

    @property
    def rotation_deg(self) -> float:
        """Return the rotation from SR to HR, degrees."""
        return math.degrees(math.atan2(self.matrix[1][0], self.matrix[0][0]))

    @property
    def accepted(self) -> bool:
        """Tell whether full-reference measures make sense: a residual of at most 0.5 px."""
        return self.residual_px <= ACCEPTED_RESIDUAL

    def apply(self, points: Points) -> Points:
        """Return HR coordinates of SR points, (n, 2)."""
        m = np.array(self.matrix)
        return np.asarray(points @ m[:, :2].T + m[:, 2])


def load_transform(path: Path) -> npt.NDArray[np.float64]:
    """Return the 2x3 matrix of a JSON file `{"matrix": [[a, b, c], [d, e, f]]}`.

    It maps SR's level-0 pixels to HR's. Raises `UsageError` for anything else.
    """
    try:
        matrix = np.array(json.loads(path.read_text(encoding="utf-8"))["matrix"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f'--transform {path} is not a JSON file with "matrix": {error}') from error
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise UsageError(f"--transform {path} must hold two rows of three finite numbers")
    if abs(np.linalg.det(matrix[:, :2])) < 1e-6:
        raise UsageError(f"--transform {path} maps the slide onto a line; check its numbers")
    return matrix


def register(
    sr: Slide,
    hr: Slide,
    sr_mpp: float | None = None,
    hr_mpp: float | None = None,
    transform: npt.NDArray[np.float64] | None = None,
) -> Alignment:
    """Return where SR lies in HR.

    `sr_mpp` and `hr_mpp` (um/px of level 0) override the slides' own. A `transform` is taken as
    it is and only its residual measured. Memory: two overviews of at most 4096 px a side, what
    features take in a part of 1280 px, and two windows. Raises `UsageError` where a pixel size is
    unknown, `SlideError` where the slides do not show the same tissue.
    """
    if transform is None:
        sr_size, hr_size = pixel_size(sr, sr_mpp, "sr"), pixel_size(hr, hr_mpp, "hr")
        coarse = _coarse_mpp(sr, sr_size, hr, hr_size)
        similarity, inliers = match_overviews(
            overview(sr, coarse / sr_size), overview(hr, coarse / hr_size)
        )
        matrix = _to_base(similarity, coarse / sr_size, coarse / hr_size)
        matrix = _refine(sr, hr, matrix)
        whole = _whole_pixel(sr, matrix)
    else:
        matrix, inliers, whole = transform, 0, None
    lengths = np.hypot(*local_shifts(sr, hr, matrix)[1].T)
    if whole is not None:
        lengths_whole = np.hypot(*local_shifts(sr, hr, whole)[1].T)
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


def pixel_size(slide: Slide, given: float | None, side: str) -> float:
    """Return the level-0 pixel size in um: `given`, else the slide's; `UsageError` for neither."""
    size = given if given is not None else slide.mpp
    if size is None or not size > 0:
        raise UsageError(f"{slide.path} records no pixel size; give it with --{side}-mpp")
    return size


def match_overviews(sr: Image, hr: Image) -> tuple[npt.NDArray[np.float64], int]:
    """Return the 2x3 similarity from SR's overview to HR's and the number of inliers.

    Raises `SlideError` where fewer than 12 matches agree, or the similarity is implausible
    (scale off by more than 20 %): different tissue, or no overlap.
    """
    (own, own_descriptors), (other, other_descriptors) = find_features(sr), find_features(hr)
    refused = (
        "the two slides do not show the same tissue, or no common part of it: {}; check the files "
        "or give --transform"
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
    """Return places (n, 2) and SIFT descriptors (n, 128) of the 8000 strongest features.

    Part by part, each with a margin, so that memory is that of a part.
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


def read_aligned(
    slide: Slide, matrix: npt.NDArray[np.float64], x: int, y: int, width: int, height: int
) -> Image:
    """Return HR resampled on SR's grid for SR's window (x, y, width, height) of level 0.

    A whole-pixel translation is read as it is; all else goes through Lanczos interpolation of the
    window's bounding box. Coarser HR levels are not used. (height, width, 3) uint8.
    """
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]])
    mapped = corners @ matrix[:, :2].T + matrix[:, 2]
    offset = matrix @ np.array([x, y, 1.0])
    linear_error = np.abs((matrix[:, :2] - np.eye(2)) @ np.array([width, height])).max()
    if linear_error < 0.05 and np.abs(offset - np.rint(offset)).max() < 0.05:
        left, top = (int(v) for v in np.rint(offset))
        return np.asarray(slide.read(0, left, top, width, height))
    margin = 8
    left, top = (int(v) for v in np.floor(mapped.min(axis=0)) - margin)
    right, bottom = (int(v) for v in np.ceil(mapped.max(axis=0)) + margin)
    box = slide.read(0, left, top, right - left, bottom - top)
    local = matrix.copy()
    local[:, 2] = offset - (left, top)
    flags = cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(box, local, (width, height), flags=flags), dtype=np.uint8)


def local_shifts(sr: Slide, hr: Slide, matrix: npt.NDArray[np.float64]) -> tuple[Points, Points]:
    """Return window centres and the shifts HR still needs there, both (n, 2) in px of SR.

    At most 48 windows on the parts of SR with the most contrast; those without a clear
    correlation peak are left out.
    """
    centres, shifts = [], []
    for x, y in _windows(sr):
        own = sr.read(0, x, y, WINDOW, WINDOW)
        other = read_aligned(hr, matrix, x, y, WINDOW, WINDOW)
        shift, peak = phase_shift(own, other)
        if peak >= LEAST_PEAK and max(map(abs, shift)) < WINDOW / 4:
            centres.append((x + (WINDOW - 1) / 2, y + (WINDOW - 1) / 2))
            shifts.append(shift)
    return np.array(centres).reshape(-1, 2), np.array(shifts, dtype=float).reshape(-1, 2)


def phase_shift(first: Image, second: Image) -> tuple[tuple[float, float], float]:
    """Return ((x, y) by which `second`'s content lies beyond `first`'s, correlation peak 0..1).

    Luma under a Hann window. Before correlating both lose the frequencies above 1/4 cycles/px,
    where one of them may hold generated detail that the other lacks.
    """
    planes = [
        cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64), (0, 0), 1.0)
        for image in (first, second)
    ]
    window = cv2.createHanningWindow((WINDOW, WINDOW), cv2.CV_64F)
    a, b = (np.fft.rfft2((plane - plane.mean()) * window) for plane in planes)
    cross = a.conj() * b
    # frequencies that hold next to nothing would only add their noise to the peak
    magnitude = np.abs(cross)
    fy, fx = np.fft.fftfreq(WINDOW)[:, None], np.fft.rfftfreq(WINDOW)[None, :]
    whitened = cross / (magnitude + 1e-3 * magnitude.max() + 1e-12)
    surface = np.fft.irfft2(whitened * (np.hypot(fy, fx) <= 0.25), s=(WINDOW, WINDOW))
    top = np.unravel_index(int(surface.argmax()), surface.shape)
    shift_y = _wrap(_vertex(surface[:, top[1]], int(top[0])))
    shift_x = _wrap(_vertex(surface[top[0]], int(top[1])))
    energy = np.sqrt((surface**2).sum())
    return (shift_x, shift_y), float(surface[top] / energy) if energy > 0 else 0.0


def _vertex(line: npt.NDArray[np.float64], peak: int) -> float:
    """Return the sub-pixel position of the peak from a Gaussian through three samples."""
    before, here, after = (line[(peak + d) % line.size] for d in (-1, 0, 1))
    if min(before, here, after) <= 0:
        return float(peak)
    before, here, after = np.log((before, here, after))
    curvature = before - 2 * here + after
    return peak + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)


def _wrap(value: float) -> float:
    return value - WINDOW if value > WINDOW / 2 else value


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
    """Return the whole-pixel translation that the fit differs from by its own noise only.

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
    """Return the 2x3 affine taking centres to centres + shifts, outliers left out."""
    design = np.column_stack([centres, np.ones(len(centres))])
    keep = np.ones(len(centres), dtype=bool)
    for _ in range(5):
        solution = np.linalg.lstsq(design[keep], (centres + shifts)[keep], rcond=None)[0]
        error = np.hypot(*(design @ solution - centres - shifts).T)
        keep = error <= max(3 * float(np.median(error[keep])), 0.05)
    return np.asarray(solution.T)


def _mean_shift(_: Points, shifts: Points) -> npt.NDArray[np.float64]:
    return np.column_stack([np.eye(2), np.median(shifts, axis=0)])


def _windows(slide: Slide) -> list[tuple[int, int]]:
    """Return the corners of well-filled windows, spread over the slide, most contrast first."""
    factor = max(8.0, max(slide.width, slide.height) / 2048)
    small = overview(slide, factor)
    side = max(2, round(WINDOW / factor))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    columns = max(1, slide.width // WINDOW)
    rows = max(1, slide.height // WINDOW)
    every = max(1, math.ceil(math.sqrt(columns * rows / (4 * MOST_WINDOWS))))
    scored = []
    for row in range(0, rows, every):
        for column in range(0, columns, every):
            x, y = column * WINDOW, row * WINDOW
            left, top = round(x / factor), round(y / factor)
            part = grey[top : top + side, left : left + side]
            if part.size:
                scored.append((float(part.std()), x, y))
    scored.sort(reverse=True)
    return [(x, y) for contrast, x, y in scored[:MOST_WINDOWS] if contrast > 2.0]


def _coarse_mpp(sr: Slide, sr_mpp: float, hr: Slide, hr_mpp: float) -> float:
    sides = (max(sr.width, sr.height) * sr_mpp, max(hr.width, hr.height) * hr_mpp)
    # small fields have too few features at 2 um/px; large ones would not fit into memory
    fine = min(sides) / 1024
    return max(min(COARSE_MPP, fine), sr_mpp, hr_mpp, max(sides) / COARSE_SIDE)


def _to_base(
    similarity: npt.NDArray[np.float64], sr_factor: float, hr_factor: float
) -> npt.NDArray[np.float64]:
    """Return the similarity between overviews in level-0 pixel centres of both slides."""
    linear = similarity[:, :2] * hr_factor / sr_factor
    # an overview pixel's centre c lies at (c + 0.5) * factor - 0.5 of level 0
    centre = np.full(2, 0.5)
    offset = (similarity[:, 2] + centre) * hr_factor - centre
    offset += linear @ centre - similarity[:, :2] @ centre * hr_factor
    return np.column_stack([linear, offset])
