"""Reads one resolution of a slide, stored or made from the next finer level."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsisr.resize import area_span, reduced_size
from wsisr.slides.base import RGB, Slide, check_region, filled

BAND_BYTES = 64 << 20
"""Source pixels held at once while a region is reduced."""


@dataclass(frozen=True)
class View:
    """Stands for one resolution of a slide, read in its own pixels.

    Attributes:
        slide: the open slide.
        width: in px of the view.
        height: in px of the view.
        mpp: um/px of the view, None where nothing tells.
        magnification: nominal magnification of the view, None where nothing tells.
        downsample: level-0 px that a view px is wide.
        level: the stored level it is read from.
        factor: px of that level that a view px is wide; 1 where the level is the view.
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
        """The ICC profile of the slide."""
        return self.slide.icc_profile

    @property
    def background(self) -> tuple[int, int, int]:
        """The background colour of the slide, RGB, 0 to 255."""
        return self.slide.background

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region; may be called from several threads at once.

        A pixel's value does not depend on the region it is read in.

        Args:
            x: left edge, in px of the view.
            y: top edge, in px of the view.
            width: in px of the view.
            height: in px of the view.

        Returns:
            uint8 (height, width, 3); what lies outside the slide has the background colour.

        Raises:
            UsageError: a region without pixels.
            SlideError: broken data, or a closed slide.

        Memory:
            While reducing, at most `BAND_BYTES` of the finer level, or what one row of view pixels
            covers where that is more.
        """
        if self.factor == 1:
            return self.slide.read(self.level, x, y, width, height)
        check_region(width, height)
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
        # only here: what opens a slide to look at its size does without compiled loops
        from wsisr.resize import reduce_area

        return reduce_area(
            np.ascontiguousarray(source),
            factor=self.factor,
            start=(x, y),
            count=(width, height),
            size=(stored.width, stored.height),
        )


def overview(source: Slide | View, factor: float) -> RGB:
    """Reads the whole of a slide, or of a view, much smaller.

    Every coarse look at a slide goes through here: registration, tissue, thumbnails of reports.
    It reads the coarsest stored level that suffices, in bands.

    Args:
        source: what is looked at; a slide stands for its level 0.
        factor: px of `source` that a px of the overview is wide, 1 or more. Pixel k covers
            exactly [k * factor, (k + 1) * factor).

    Returns:
        uint8 (ceil(height / factor), ceil(width / factor), 3).

    Raises:
        SlideError: broken data, or a closed slide.

    Memory:
        The overview, and what `View.read` holds.
    """
    view = source if isinstance(source, View) else stored_view(source, 0, None, None)
    small = coarser_view(view, factor)
    return small.read(0, 0, small.width, small.height)


def stored_view(
    slide: Slide, level: int, base_mpp: float | None, base_magnification: float | None
) -> View:
    """Gives a stored level as a view.

    Args:
        slide: the open slide.
        level: the level, one that there is.
        base_mpp: um/px to take for level 0, or None.
        base_magnification: nominal magnification to take for level 0, or None.
    """
    stored = slide.levels[level]
    return View(
        slide=slide,
        width=stored.width,
        height=stored.height,
        mpp=None if base_mpp is None else base_mpp * stored.downsample,
        magnification=(
            None if base_magnification is None else base_magnification / stored.downsample
        ),
        downsample=stored.downsample,
        level=level,
        factor=1.0,
    )


def coarser_view(view: View, factor: float) -> View:
    """Gives the slide at a multiple of a view's pixel size, exactly.

    It is made from the coarsest stored level that is no coarser, not from the view itself.

    Args:
        view: the finer resolution.
        factor: px of `view` that a px of the result is wide, 1 or more. Pixel k covers
            [k * factor, (k + 1) * factor).

    Returns:
        The coarser view; `view` itself for a factor of 1.
    """
    if factor == 1:
        return view
    downsample = view.downsample * factor
    return reduced_view(
        view.slide,
        downsample,
        None if view.mpp is None else view.mpp / view.downsample,
        None if view.magnification is None else view.magnification * view.downsample,
    )


def reduced_view(
    slide: Slide, downsample: float, base_mpp: float | None, base_magnification: float | None
) -> View:
    """Gives a view of exactly a downsample, made from the next finer stored level.

    Args:
        slide: the open slide.
        downsample: level-0 px that a view px is wide, 1 or more.
        base_mpp: um/px to take for level 0, or None.
        base_magnification: nominal magnification to take for level 0, or None.
    """
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
        magnification=None if base_magnification is None else base_magnification / downsample,
        downsample=downsample,
        level=source,
        factor=factor,
    )
