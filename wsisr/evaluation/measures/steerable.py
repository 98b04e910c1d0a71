"""The steerable pyramid (Simoncelli and Freeman 1995), as far as NRQM needs it."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import fft

Array = npt.NDArray[np.float64]
Number = TypeVar("Number", np.float64, np.complex128)

BANDS = 6
"""Orientations."""


def steerable_pyramid(image: Array) -> tuple[Array, list[list[Array]]]:
    """Splits an image into the high-pass residual and the real oriented bands of two scales.

    Simoncelli and Freeman 1995 with raised cosines in log frequency, as matlabPyrTools builds it.

    Args:
        image: (h, w) float64.

    Returns:
        The residual, and `BANDS` bands of each scale, the second at half the size.
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
    """Gives the high-pass that rises from 0 to 1 over the octave below 2^shift of Nyquist."""
    rise = np.clip(octave - shift + 1, 0, 1)
    return np.asarray(np.sin(rise * np.pi / 2))


def _opposite(ramp: Array) -> Array:
    """Gives the low-pass whose power completes that of a high-pass."""
    return np.asarray(np.sqrt(np.clip(1 - ramp**2, 0, None)))


def _spatial(spectrum: npt.NDArray[np.complex128]) -> Array:
    return np.ascontiguousarray(fft.ifft2(fft.ifftshift(spectrum)).real)


def _middle(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Gives the lower half of the frequencies."""
    places = []
    for side in values.shape:
        half = math.ceil((side - 0.5) / 2)
        start = math.ceil((side + 0.5) / 2) - math.ceil((half + 0.5) / 2)
        places.append(slice(start, start + half))
    return values[tuple(places)]
