"""What blur and seams do to the spectrum: high-frequency ratio and comb energy.

Conventions: BT.601 luma, mean removed, periodic Hann window over the whole image, power from the
discrete Fourier transform. The high band holds radial frequencies from 1/8 to 1/2 cycles/px,
periods of 8 down to 2 px: at 0.25 um/px exactly what a 10x image cannot hold, so what
super-resolution from 10x or 5x has to create. The comb is looked for in the mean absolute
difference between neighbouring rows and columns, at the harmonics of each period.

Ratios to the scan: 0 dB means as much fine detail as the real scan, less a deficit (blur), more an
excess (noise, invented texture); a grid that the scan does not have stands out positive, even where
the scan's own codec left one. A single image without a grid has about 0 to 5 dB over its own
texture; slides stored as JPEG have a grid of 8 px themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt
from scipy import fft as sp_fft

from wsisr.errors import UsageError
from wsisr.evaluation.measures.pixels import Image, Plane, check_image, luma

HIGH_BAND = (0.125, 0.5)
"""Cycles per pixel, both ends included."""
COMB_PERIODS = (8, 16, 32, 64)
"""Pixels: the grids that codecs, latent decoders and window attention can leave inside a tile."""
MIN_COMB_REPEATS = 4
"""Periods that must fit into the image for its comb to be told from its texture."""
MESH_PERIOD = 4
"""Pixels: the mesh that decoders of four or eight pixels a latent leave where they are unsure."""
MESH_WINDOW = 32
"""Pixels a side of the windows a mesh is looked for in: about one nucleus at 0.25 um/px."""
MESH_SHARE = 0.35
"""Of a window's fine power, from which on a mesh is what an eye sees there."""
MESH_CONTRAST = 0.8
"""Grey levels, root mean square, under which detail is too faint to be a mesh."""
_FLOOR = 1e-12

Combs = Mapping[tuple[str, int], tuple[float, float]]
"""{("rows" | "columns", period): (power at the harmonics, power between)}."""


def ratio_db(own: float, reference: float) -> float:
    """Gives an energy over another in dB; NaN where the reference has none."""
    if reference <= _FLOOR:
        return float("nan")
    return float(10.0 * np.log10(max(own, _FLOOR) / reference))


def band_energy(image: Image, band: tuple[float, float] = HIGH_BAND) -> float:
    """Computes the luma's mean windowed spectral energy in a radial band.

    Args:
        image: (h, w, 3) uint8 RGB.
        band: lowest and highest frequency, cycles/px.

    Returns:
        Grey levels squared.

    Raises:
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    rows, columns = image.shape[:2]
    spectrum = _spectrum(luma(image), _hann(rows, columns))
    return float(_energy(spectrum, _band_weights(rows, columns, band)) / rows / columns)


def combs_ratio_db(own: Combs, reference: Combs) -> float:
    """Gives the largest ratio of two results of `comb_energies` in dB; NaN where they are empty."""
    if not own:
        return float("nan")
    ratios = [(own[key][0] + _FLOOR) / (reference[key][0] + _FLOOR) for key in own]
    return float(10.0 * np.log10(max(ratios)))


def strongest_comb_db(combs: Combs) -> float:
    """Gives the strongest grid over its own texture in dB; NaN where no period fits."""
    levels = [
        (harmonics + _FLOOR) / (background + _FLOOR) for harmonics, background in combs.values()
    ]
    return float(10.0 * np.log10(max(levels))) if levels else float("nan")


def comb_energies(image: Image, periods: Sequence[int] = COMB_PERIODS) -> Combs:
    """Finds the power at the harmonics of regular grids, and the power between.

    Both are means over frequency bins of the profile of mean absolute luma differences across
    each row or column border; the power between comes from its median.

    Args:
        image: (h, w, 3) uint8 RGB.
        periods: periods of the grids, px.

    Returns:
        {("rows" | "columns", period): (at the harmonics, between)} in grey levels squared, for the
        periods that fit at least four times.

    Raises:
        UsageError: the array is no RGB image, or a period is under 2 px.
    """
    check_image(image, "the image")
    if min(periods, default=2) < 2:
        raise UsageError("a comb period is at least 2 px")
    plane = luma(image)
    down, across = _difference_sums(plane)
    profiles = {"rows": down / plane.shape[1], "columns": across / plane.shape[0]}
    return {
        (axis, period): _comb_energy(profile, period)
        for axis, profile in profiles.items()
        for period in periods
        if profile.size >= MIN_COMB_REPEATS * period
    }


def mesh_share(image: Image) -> float:
    """Tells how much of an image shows a mesh of 4 px; needs no reference.

    Fine detail is luma of periods under 6.5 px along rows or columns, under a Hann window; it is a
    mesh where more than 0.35 of its power lies in rows or columns of 4 px, and it has at least 0.8
    grey levels. Real tissue has a few such windows in ten thousand.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        Share of 32 px windows, 0 to 1; NaN where no window fits.

    Raises:
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    size = MESH_WINDOW
    rows, columns = (side // size for side in image.shape[:2])
    if not rows * columns:
        return float("nan")
    # single precision: shares to two figures, at half the time
    plane = luma(image)[: rows * size, : columns * size].astype(np.float32)
    windows = plane.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)
    taper = _hann(size, size)
    spectra = sp_fft.rfft2((windows - windows.mean((1, 2), keepdims=True)) * taper)
    power = (spectra.real**2 + spectra.imag**2).reshape(len(windows), -1)
    fine, mesh = (power @ weights for weights in _mesh_weights())
    # Parseval: the sum of squares over the taper's own
    contrast = np.sqrt(fine / (size**2 * np.square(taper).sum()))
    found = (mesh > MESH_SHARE * fine) & (contrast >= MESH_CONTRAST)
    return float(found.mean())


@lru_cache(maxsize=1)
def _mesh_weights() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Tells what each bin of a window's half spectrum counts in fine detail, and in a mesh."""
    size = MESH_WINDOW
    row = np.abs(np.fft.fftfreq(size, 1 / size))[:, None]
    column = np.arange(size // 2 + 1)[None]
    longer, shorter = np.maximum(row, column), np.minimum(row, column)
    sides = _both_halves(size)
    fine = (longer >= 5) * sides
    mesh = (np.abs(longer - size / MESH_PERIOD) <= 1) * (shorter <= 1) * sides
    return fine.ravel().astype(np.float32), mesh.ravel().astype(np.float32)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _difference_sums(plane):  # type: ignore[no-untyped-def]
    """Sums absolute differences over each border between rows, and between columns."""
    rows, columns = plane.shape
    down, across = np.zeros(rows - 1), np.zeros(columns - 1)
    for y in range(rows):
        here = plane[y]
        for x in range(columns - 1):
            across[x] += abs(here[x + 1] - here[x])
        if y > 0:
            above = plane[y - 1]
            total = 0.0
            for x in range(columns):
                total += abs(here[x] - above[x])
            down[y - 1] = total
    return down, across


def _comb_energy(profile: npt.NDArray[np.float64], period: int) -> tuple[float, float]:
    repeats = profile.size // period
    values = profile[: repeats * period]
    # a whole number of repeats puts every harmonic on a bin of its own: no leakage, no window
    spectrum = sp_fft.rfft(values - values.mean())
    power = (spectrum.real**2 + spectrum.imag**2) / values.size
    harmonics, between = _comb_bins(repeats, power.size)
    # the median of an exponentially distributed power is ln 2 of its mean
    return float(power[harmonics].mean()), float(np.median(power[between]) / np.log(2.0))


@lru_cache(maxsize=64)
def _comb_bins(repeats: int, size: int) -> tuple[slice, npt.NDArray[np.int64]]:
    """Gives the bins at the harmonics, and those between from the half of the first on."""
    between = np.ones(size, dtype=bool)
    between[repeats::repeats] = False
    # slow changes of the tissue fill the bins below the first harmonic and say nothing of a grid
    between[: max(1, repeats // 2)] = False
    return slice(repeats, None, repeats), np.flatnonzero(between)


def _spectrum(plane: Plane, window: npt.NDArray[np.float32]) -> npt.NDArray[np.complex64]:
    return np.asarray(sp_fft.rfft2(_windowed(plane, window)))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _windowed(plane, window):  # type: ignore[no-untyped-def]
    mean = plane.mean()
    centred = np.empty(plane.shape, np.float32)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            centred[y, x] = (plane[y, x] - mean) * window[y, x]
    return centred


@numba.njit(cache=True, nogil=True, fastmath=True)
def _energy(spectrum, weights):  # type: ignore[no-untyped-def]
    total = 0.0
    for y in range(spectrum.shape[0]):
        for x in range(spectrum.shape[1]):
            value = spectrum[y, x]
            total += weights[y, x] * (value.real * value.real + value.imag * value.imag)
    return total


def _both_halves(columns: int) -> npt.NDArray[np.float32]:
    """Tells how often a real signal's whole spectrum holds each column of its half."""
    counts = np.ones(columns // 2 + 1, np.float32)
    counts[1 : (columns + 1) // 2] = 2.0
    return counts


@lru_cache(maxsize=8)
def _hann(rows: int, columns: int) -> npt.NDArray[np.float32]:
    def one(size: int) -> npt.NDArray[np.float64]:
        return np.asarray(0.5 - 0.5 * np.cos(2.0 * np.pi * (np.arange(size) + 0.5) / size))

    return np.asarray(np.outer(one(rows), one(columns)), np.float32)


def _radius(rows: int, columns: int) -> npt.NDArray[np.float64]:
    return np.asarray(np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]))


@lru_cache(maxsize=8)
def _band_weights(rows: int, columns: int, band: tuple[float, float]) -> npt.NDArray[np.float32]:
    radius = _radius(rows, columns)
    inside = (radius >= band[0]) & (radius <= band[1])
    return np.asarray(inside * _both_halves(columns), np.float32)
