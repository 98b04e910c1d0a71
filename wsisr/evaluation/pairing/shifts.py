"""Measures the shifts between two registered slides by phase correlation."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from wsisr.evaluation.measures import Image
from wsisr.slides import Slide, overview

WINDOW = 256
"""Side of the squares that local shifts are measured in, in px of SR."""
MOST_WINDOWS = 48
LEAST_PEAK = 0.08
"""Phase correlation response under which a square has nothing to lock on."""

Points = npt.NDArray[np.float64]
"""(n, 2): x, y."""


def read_aligned(
    slide: Slide, matrix: npt.NDArray[np.float64], x: int, y: int, width: int, height: int
) -> Image:
    """Reads HR on SR's grid.

    A whole-pixel translation is read as it is; all else goes through Lanczos interpolation of the
    region's bounding box. Coarser HR levels are not used.

    Args:
        slide: HR.
        matrix: (2, 3), from SR's level-0 px to HR's.
        x: left edge of the region in SR, level-0 px.
        y: its top edge.
        width: its width.
        height: its height.

    Returns:
        (height, width, 3) uint8 RGB.
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
    """Measures the shifts that HR still needs, in squares where SR has the most contrast.

    Args:
        sr: the result.
        hr: the real scan.
        matrix: (2, 3), from SR's level-0 px to HR's.

    Returns:
        Centres of at most 48 squares and their shifts, both (n, 2) x and y in px of SR; squares
        without a clear correlation peak are left out.
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
    """Measures a shift by phase correlation of the luma under a Hann window.

    Before correlating both lose the frequencies above 1/4 cycles/px, where one of them may hold
    generated detail that the other lacks.

    Args:
        first: (256, 256, 3) uint8 RGB.
        second: another image of that size.

    Returns:
        (x, y) by which the content of `second` lies beyond that of `first`, px, and the height of
        the correlation peak, 0 to 1.
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
    """Finds the sub-pixel position of the peak from a Gaussian through three samples."""
    before, here, after = (line[(peak + d) % line.size] for d in (-1, 0, 1))
    if min(before, here, after) <= 0:
        return float(peak)
    before, here, after = np.log((before, here, after))
    curvature = before - 2 * here + after
    return peak + (0.5 * (before - after) / curvature if curvature < 0 else 0.0)


def _wrap(value: float) -> float:
    return value - WINDOW if value > WINDOW / 2 else value


def _windows(slide: Slide) -> list[tuple[int, int]]:
    """Lists the corners of well-filled squares, spread over the slide, most contrast first."""
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
