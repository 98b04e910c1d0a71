"""Which resolution of a slide is worked on, stored or made from the next finer level."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from wsisr.errors import UsageError
from wsisr.resize import area_span, reduce_area, reduced_size
from wsisr.resolution import completed
from wsisr.slides.base import RGB, Slide, check_window, filled

log = logging.getLogger(__name__)

TOLERANCE = 0.01
"""A stored level is taken as it is when it lies this close to the resolution asked for."""
BAND_BYTES = 64 << 20
"""Source pixels held at once while a window is reduced."""


@dataclass(frozen=True)
class View:
    """One resolution of a slide, read in its own pixels.

    width, height: in px of the view. mpp: um/px of the view, None where nothing tells.
    magnification: nominal, of the view. downsample: level-0 px a view px is wide. level: the
    stored level it is read from. factor: px of that level a view px is wide, 1 where the level is
    the view.
    """

    slide: Slide
    width: int
    height: int
    mpp: float | None
    magnification: float | None
    downsample: float
    level: int
    factor: float

    @property
    def icc_profile(self) -> bytes | None:
        """That of the slide."""
        return self.slide.icc_profile

    @property
    def background(self) -> tuple[int, int, int]:
        """That of the slide: RGB, 0 to 255."""
        return self.slide.background

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """A window in px of the view: uint8 (height, width, 3), thread-safe.

        What lies outside has the background colour. A pixel's value does not depend on the window
        it is read in. While reducing, at most `BAND_BYTES` of the finer level are held, or one row
        of view pixels where that is more. Raises what `Slide.read` raises.
        """
        if self.factor == 1:
            return self.slide.read(self.level, x, y, width, height)
        check_window(width, height)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, self.width), min(y + height, self.height)
        out = filled(width, height, self.background)
        if left >= right or top >= bottom:
            return out
        row_bytes = 3 * self.factor**2 * (right - left)
        band = max(1, int(BAND_BYTES / row_bytes))
        for first in range(top, bottom, band):
            last = min(first + band, bottom)
            out[first - y : last - y, left - x : right - x] = self._reduce(
                left, first, right - left, last - first
            )
        return out

    def _reduce(self, x: int, y: int, width: int, height: int) -> RGB:
        stored = self.slide.levels[self.level]
        x0, x1 = area_span(x, width, self.factor, stored.width)
        y0, y1 = area_span(y, height, self.factor, stored.height)
        source = self.slide.read(self.level, x0, y0, x1 - x0, y1 - y0)
        return reduce_area(
            np.ascontiguousarray(source),
            factor=self.factor,
            start=(x, y),
            count=(width, height),
            size=(stored.width, stored.height),
        )


def select_view(
    slide: Slide,
    *,
    input_mag: float | None = None,
    input_mpp: float | None = None,
    level: int | None = None,
) -> View:
    """The resolution of `slide` that the options ask for; level 0 where they ask for none.

    level: the stored level, as it is. input_mpp (um/px) or input_mag given with it state that
    level's resolution, whatever the metadata say.

    input_mpp or input_mag alone: where the slide states a resolution, the view that has the
    one asked for: a stored level within 1 %, else the next finer level reduced by area averaging.
    Where the slide states none, the resolution of level 0, which is then the view.

    Where only one of mpp and magnification is known, mpp = 10 / magnification, and the
    magnification is 10 / mpp, taken to the standard objective within 15 % (0.263 um/px is a
    40x scan). `View.mpp` is None where nothing is known.

    Raises `UsageError` for values that are not positive, a level that does not exist, two options
    that contradict each other, and a resolution finer than level 0.
    """
    for name, value in (("--input-mag", input_mag), ("--input-mpp", input_mpp)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{name} {value:g} is not a resolution; give a number above 0")
    base_mpp, base_mag = completed(slide.mpp, slide.magnification)
    if level is not None:
        if not 0 <= level < len(slide.levels):
            raise UsageError(
                f"--level {level}: {slide.path} has the levels 0 to {len(slide.levels) - 1}"
            )
        return _stated(slide, level, input_mpp, input_mag)
    if input_mpp is None and input_mag is None:
        return _stored(slide, 0, base_mpp, base_mag)
    if base_mpp is None or base_mag is None:
        return _stated(slide, 0, input_mpp, input_mag)
    wanted = [
        asked
        for asked in (
            None if input_mpp is None else input_mpp / base_mpp,
            None if input_mag is None else base_mag / input_mag,
        )
        if asked is not None
    ]
    if max(wanted) > (1 + TOLERANCE) * min(wanted):
        raise UsageError(
            f"--input-mag {input_mag:g} and --input-mpp {input_mpp:g} are different resolutions "
            f"of {slide.path}; give one of them"
        )
    return _at_downsample(slide, wanted[0], base_mpp, base_mag)


def _stated(slide: Slide, level: int, mpp: float | None, magnification: float | None) -> View:
    """A stored level with the resolution the user states for it, else the slide's."""
    base_mpp, base_mag = completed(slide.mpp, slide.magnification)
    if mpp is None and magnification is None:
        return _stored(slide, level, base_mpp, base_mag)
    downsample = slide.levels[level].downsample
    mpp, magnification = completed(mpp, magnification)
    assert mpp is not None
    assert magnification is not None
    if base_mpp is not None and not 0.99 < mpp / (base_mpp * downsample) < 1.01:
        log.warning(
            "%s states %.4g um/px for level %d; the %.4g um/px given is used instead",
            slide.path,
            base_mpp * downsample,
            level,
            mpp,
        )
    return _stored(slide, level, mpp / downsample, magnification * downsample)


def _stored(slide: Slide, level: int, base_mpp: float | None, base_mag: float | None) -> View:
    stored = slide.levels[level]
    return View(
        slide=slide,
        width=stored.width,
        height=stored.height,
        mpp=None if base_mpp is None else base_mpp * stored.downsample,
        magnification=None if base_mag is None else base_mag / stored.downsample,
        downsample=stored.downsample,
        level=level,
        factor=1.0,
    )


def _at_downsample(slide: Slide, downsample: float, base_mpp: float, base_mag: float) -> View:
    def off(level: int) -> float:
        ratio = slide.levels[level].downsample / downsample
        return max(ratio, 1 / ratio)

    nearest = min(range(len(slide.levels)), key=off)
    if off(nearest) <= 1 + TOLERANCE:
        return _stored(slide, nearest, base_mpp, base_mag)
    if downsample < 1:
        raise UsageError(
            f"{slide.path} has {base_mpp:.4g} um/px ({base_mag:.4g}x) at its finest; "
            f"{base_mpp * downsample:.4g} um/px ({base_mag / downsample:.4g}x) cannot be read from "
            "it; ask for a coarser --input-mpp or a smaller --input-mag"
        )
    return _reduced(slide, downsample, base_mpp, base_mag)


def coarser_view(view: View, factor: float) -> View:
    """The slide at `factor` (1 or more) times the view's pixel size, exactly.

    Pixel k lies over the view's pixels [k * factor, (k + 1) * factor). It is made from the
    coarsest stored level that is no coarser, not from the view itself.
    """
    if factor == 1:
        return view
    downsample = view.downsample * factor
    return _reduced(
        view.slide,
        downsample,
        None if view.mpp is None else view.mpp / view.downsample,
        None if view.magnification is None else view.magnification * view.downsample,
    )


def _reduced(
    slide: Slide, downsample: float, base_mpp: float | None, base_mag: float | None
) -> View:
    """A view of exactly this downsample (1 or more), from the next finer stored level."""
    levels = enumerate(slide.levels)
    source = max(
        (level for level, stored in levels if stored.downsample <= downsample * (1 + 1e-9)),
        key=lambda level: slide.levels[level].downsample,
    )
    stored = slide.levels[source]
    factor = downsample / stored.downsample
    if abs(factor - round(factor)) < 1e-9 * factor:
        factor = float(round(factor))
    return View(
        slide=slide,
        width=reduced_size(stored.width, factor),
        height=reduced_size(stored.height, factor),
        mpp=None if base_mpp is None else base_mpp * downsample,
        magnification=None if base_mag is None else base_mag / downsample,
        downsample=downsample,
        level=source,
        factor=factor,
    )
