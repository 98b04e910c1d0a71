"""Selects the resolution of a slide that the options ask for."""

from __future__ import annotations

import logging

from wsisr.errors import OptionError, UsageError
from wsisr.resolution import completed
from wsisr.slides.base import Slide
from wsisr.slides.view import View, reduced_view, stored_view

log = logging.getLogger(__name__)

TOLERANCE = 0.01
"""A stored level is taken as it is when it lies this close to the resolution asked for."""


def select_view(
    slide: Slide,
    *,
    input_mag: float | None = None,
    input_mpp: float | None = None,
    level: int | None = None,
) -> View:
    """Gives the resolution of a slide that the options ask for; level 0 where they ask for none.

    A `level` is taken as it is; `input_mpp` or `input_mag` given with it state that level's
    resolution, whatever the metadata say.

    Without a level, a resolution is searched for: a stored level within 1 % of it, else the next
    finer level reduced by area averaging. Where the slide states no resolution of its own, the one
    given is that of level 0, which is then the view.

    Where only one of mpp and magnification is known, the other follows from it as
    `wsisr.resolution.completed` has it (0.263 um/px is a 40x scan).

    Args:
        slide: the open slide.
        input_mag: nominal magnification, above 0.
        input_mpp: um/px, above 0.
        level: a stored level.

    Returns:
        The view; its `mpp` is None where nothing is known.

    Raises:
        OptionError: a resolution that is not positive, or a level that does not exist.
        UsageError: two options that contradict each other, or a resolution finer than level 0.
    """
    for name, value in (("input_mag", input_mag), ("input_mpp", input_mpp)):
        if value is not None and not 0 < value < float("inf"):
            raise OptionError(name, value, "is not a resolution; give a number above 0")
    if level is not None:
        if not 0 <= level < len(slide.levels):
            last = len(slide.levels) - 1
            raise OptionError("level", level, f"{slide.path} has the levels 0 to {last}")
        return _stated(slide, level, input_mpp, input_mag)
    base_mpp, base_magnification = completed(slide.mpp, slide.magnification)
    if input_mpp is None and input_mag is None:
        return stored_view(slide, 0, base_mpp, base_magnification)
    if base_mpp is None or base_magnification is None:
        return _stated(slide, 0, input_mpp, input_mag)
    downsamples = []
    if input_mpp is not None:
        downsamples.append(input_mpp / base_mpp)
    if input_mag is not None:
        downsamples.append(base_magnification / input_mag)
    if max(downsamples) > (1 + TOLERANCE) * min(downsamples):
        raise UsageError(
            f"<input_mag> {input_mag:g} and <input_mpp> {input_mpp:g} are different resolutions "
            f"of {slide.path}; give one of them"
        )
    return _at_downsample(slide, downsamples[0], base_mpp, base_magnification)


def _stated(slide: Slide, level: int, mpp: float | None, magnification: float | None) -> View:
    """Gives a stored level with the resolution that the user states for it, else the slide's."""
    base_mpp, base_magnification = completed(slide.mpp, slide.magnification)
    mpp, magnification = completed(mpp, magnification)
    if mpp is None or magnification is None:
        return stored_view(slide, level, base_mpp, base_magnification)
    downsample = slide.levels[level].downsample
    if base_mpp is not None and not 0.99 < mpp / (base_mpp * downsample) < 1.01:
        log.warning(
            "%s states %.4g um/px for level %d; the %.4g um/px given is used instead",
            slide.path,
            base_mpp * downsample,
            level,
            mpp,
        )
    return stored_view(slide, level, mpp / downsample, magnification * downsample)


def _at_downsample(
    slide: Slide, downsample: float, base_mpp: float, base_magnification: float
) -> View:
    """Gives the stored level next to a downsample, else a view made for it."""

    def distance(level: int) -> float:
        ratio = slide.levels[level].downsample / downsample
        return max(ratio, 1 / ratio)

    nearest = min(range(len(slide.levels)), key=distance)
    if distance(nearest) <= 1 + TOLERANCE:
        return stored_view(slide, nearest, base_mpp, base_magnification)
    if downsample < 1:
        raise UsageError(
            f"{slide.path} has {base_mpp:.4g} um/px ({base_magnification:.4g}x) at its finest; "
            f"{base_mpp * downsample:.4g} um/px ({base_magnification / downsample:.4g}x) cannot be "
            "read from it; ask for a coarser <input_mpp> or a smaller <input_mag>"
        )
    return reduced_view(slide, downsample, base_mpp, base_magnification)
