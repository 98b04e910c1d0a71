"""Resolution, magnification and the objective that a pixel size stands for: decided once, here.

The field's rule of thumb: mpp (um/px) = 10 / magnification.
"""

from __future__ import annotations

import math
from pathlib import Path

from wsisr.errors import OptionError, UsageError

TARGET_MPP = 0.25
"""um/px at 40x."""
LARGEST_MAGNIFICATION = 80.0
"""What a light microscope resolves at most."""
OBJECTIVES = (1.25, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0)
OBJECTIVE_TOLERANCE = 0.15
"""Scanners of one nominal magnification differ this much in pixel size (40x: 0.22 to 0.28)."""


def nominal_magnification(mpp: float) -> float:
    """Gives the objective that a pixel size stands for.

    Args:
        mpp: um/px, above 0.

    Returns:
        The standard objective within 15 % of 10 / mpp, else 10 / mpp itself, not rounded: views
        are derived from it.
    """
    exact = 10 / mpp
    nearest = min(OBJECTIVES, key=lambda standard: max(standard / exact, exact / standard))
    ratio = max(nearest / exact, exact / nearest)
    return nearest if ratio <= 1 + OBJECTIVE_TOLERANCE else exact


def completed(mpp: float | None, magnification: float | None) -> tuple[float | None, float | None]:
    """Works out the missing one of pixel size and magnification from the other.

    Args:
        mpp: um/px, or None where it is not known.
        magnification: nominal magnification, or None where it is not known.

    Returns:
        Both; None for both where neither is known.
    """
    if mpp is None:
        return (None if magnification is None else 10 / magnification), magnification
    return mpp, nominal_magnification(mpp) if magnification is None else magnification


def stated_resolution(
    path: Path,
    recorded: tuple[float | None, float | None],
    input_mpp: float | None,
    input_mag: float | None,
) -> tuple[float, float]:
    """Works out um/px and magnification of a slide from what is stated, else from what it records.

    Args:
        path: the slide, for messages.
        recorded: its pixel size in um/px and its magnification.
        input_mpp: um/px that the user states.
        input_mag: magnification that the user states.

    Returns:
        Both.

    Raises:
        OptionError: what is stated is no resolution.
        UsageError: nothing is known of it.
    """
    for option, value in (("input_mpp", input_mpp), ("input_mag", input_mag)):
        if value is not None and not 0 < value < math.inf:
            raise OptionError(option, value, "is not a resolution; give a number above 0")
    if input_mpp is None and input_mag is None:
        input_mpp, input_mag = recorded
    mpp, magnification = completed(input_mpp, input_mag)
    if mpp is None or magnification is None:
        raise UsageError(f"{path} does not record its pixel size; give <input_mpp> or <input_mag>")
    return mpp, magnification


def default_scale(mpp: float) -> float:
    """Gives the factor that leads from a pixel size to 40x.

    Scanners that call 0.263 um/px "40x" are met by a factor of 4 from 1.05 um/px, not by 4.2.

    Args:
        mpp: um/px of the input.

    Returns:
        The factor, a whole number where one is within 6 %.
    """
    exact = mpp / TARGET_MPP
    return float(round(exact)) if abs(round(exact) / exact - 1) < 0.06 else exact
