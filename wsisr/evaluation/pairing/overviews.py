"""Overviews of slides, read in bands."""

from __future__ import annotations

import cv2
import numpy as np

from wsisr.evaluation.measures import Image
from wsisr.slides import Slide


def overview(slide: Slide, downsample: float) -> Image:
    """Reduces a slide, reading it in bands from the coarsest level that is fine enough.

    A band holds at most 64 rows of the overview.

    Args:
        slide: the slide.
        downsample: how many level-0 px a px of the overview is wide.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    level = max(
        (i for i, item in enumerate(slide.levels) if item.downsample <= downsample * 1.01),
        default=0,
        key=lambda i: slide.levels[i].downsample,
    )
    stored = slide.levels[level]
    factor = downsample / stored.downsample
    width = max(1, round(stored.width / factor))
    height = max(1, round(stored.height / factor))
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 64):
        bottom = min(top + 64, height)
        first, last = round(top * factor), min(stored.height, max(round(bottom * factor), 1))
        first = min(first, last - 1)
        band = slide.read(level, 0, first, stored.width, last - first)
        out[top:bottom] = cv2.resize(band, (width, bottom - top), interpolation=cv2.INTER_AREA)
    return out
