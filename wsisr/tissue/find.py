"""Finds where a slide has tissue; everywhere else it is resized only.

Both errors cost: glass taken for tissue costs time, tissue taken for glass costs detail. So the
mask leans towards tissue: low thresholds, ink and black only where they are no part of tissue,
then a margin around all that was found.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.slides import Slide, View, overview, select_view
from wsisr.tissue.mask import Mask, TissueMask

MASK_MPP = 8.0
"""um a mask px is wide, where the resolution is known and the mask stays within `MASK_SIDE`."""
MASK_SIDE = 2048
"""Largest side of the mask in px."""
MARGIN = 2
"""Mask px by which tissue is widened."""
CONTRAST = (6.0, 12.0)
"""Least and largest threshold for the difference from glass, in grey levels of any channel."""
COLOUR_CAST = 4.0
"""Threshold for the difference from glass in colour alone: pale stains are coloured, not dark."""
GLASS_LIGHT, GLASS_CAST = 170, 25
"""Glass is lighter than the one, and its channels differ by less than the other."""
BLACK = 50
"""Borders and marker ink are darker than this in every channel."""
INK_SATURATION = 0.6
INK_LEAD = 30
"""Marker ink is green or blue by this many levels and this saturation: more than any stain."""
INK_RIM = 5
"""Mask px around ink that its blurred edge colours."""
TISSUE_AROUND = 0.3
"""Dark or vivid spots with this much tissue around them are part of it (pigment, folds)."""

RGB = NDArray[np.uint8]


def tissue_mask(source: Slide | View, *, margin: int = MARGIN) -> TissueMask:
    """Finds tissue by its difference from the glass.

    A mask px is `MASK_MPP` um wide, or more where the mask would exceed `MASK_SIDE`. It is made
    in bands from the coarsest stored level that suffices, so memory does not grow with the slide.
    Without light, colourless glass everything but the dark is tissue.

    Args:
        source: the slide, at level 0, or a view of it.
        margin: mask px by which tissue is widened. What the model must not miss has a margin;
            what is to be tissue for certain has none.

    Returns:
        The mask, in px of the view.

    Raises:
        SlideError: the slide cannot be read.
    """
    view = source if isinstance(source, View) else select_view(source)
    factor = mask_factor(view)
    return TissueMask(find_tissue(overview(view, factor), margin), float(factor), view.downsample)


def mask_factor(view: View) -> int:
    """Tells how many view px a mask px is wide."""
    by_size = math.ceil(max(view.width, view.height) / MASK_SIDE)
    by_mpp = 1 if view.mpp is None else math.floor(MASK_MPP / view.mpp)
    return max(1, by_size, by_mpp)


def find_tissue(pixels: RGB, margin: int = MARGIN) -> Mask:
    """Finds tissue, with a margin, in a low-resolution image.

    A pixel differs from glass by more than the noise of the glass, in lightness or in colour.
    Black borders and green, blue or black marker ink are dropped where no tissue surrounds them;
    red ink has the colour of blood and stays. An image without glass is fluorescence, or tissue
    all over: all that differs from its darkness is tissue.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        margin: px by which tissue is widened.

    Returns:
        (h, w) bool, true for tissue.
    """
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    lightest, darkest = smooth.max(axis=2), smooth.min(axis=2)
    foreign = (lightest < BLACK) | _ink(smooth, lightest, darkest)
    glass = glass_colour(smooth[~foreign])
    if glass is None:
        # nobody writes on what lets no light through: vivid colours are fluorescence
        dark = min(float(np.median(lightest)), BLACK - CONTRAST[1])
        return _dilated(lightest > dark + CONTRAST[1], margin)
    found = _without_foreign(_differs(smooth, glass), foreign)
    return _dilated(found, margin)


def glass_colour(pixels: RGB) -> NDArray[np.float32] | None:
    """Gives the colour of the lightest matter in `pixels` (n, 3), None where that is no glass.

    Pure white is what scanners fill in, and counts only where there is nothing else light.
    """
    light = pixels.min(axis=1) if len(pixels) else np.zeros(0, np.uint8)
    scanned = light < 255
    if np.count_nonzero(scanned & (light >= GLASS_LIGHT)) > 0.01 * max(1, len(pixels)):
        pixels, light = pixels[scanned], light[scanned]
    if not len(pixels):
        return None
    top = float(np.percentile(light, 99))
    colour = np.median(pixels[light >= top - 8], axis=0).astype(np.float32)
    is_glass = colour.min() >= GLASS_LIGHT and colour.max() - colour.min() <= GLASS_CAST
    return colour if is_glass else None


def _differs(smooth: RGB, glass: NDArray[np.float32]) -> Mask:
    """Marks where an image differs from the colour of glass, specks of noise left out."""
    difference = glass - smooth.astype(np.float32)
    contrast = np.abs(difference).max(axis=2)
    cast = np.abs(difference - difference.mean(axis=2, keepdims=True)).max(axis=2)
    near = contrast[contrast < CONTRAST[1]]
    noise = 1.4826 * float(np.median(near)) if near.size else 0.0
    threshold = min(max(4 * noise, CONTRAST[0]), CONTRAST[1])
    # lighter than glass is light refracted at edges of debris, or what the scanner filled in
    darker = difference.max(axis=2) > 0
    found = ((contrast > threshold) | (cast > COLOUR_CAST)) & darker
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8))
    sure = np.bincount(labels[contrast > 2 * threshold], minlength=len(stats)) > 0
    keep = sure | (stats[:, cv2.CC_STAT_AREA] >= 9)
    keep[0] = False
    return np.asarray(keep[labels])


def _ink(smooth: RGB, lightest: NDArray[np.uint8], darkest: NDArray[np.uint8]) -> Mask:
    red, green, blue = (smooth[..., channel].astype(np.int16) for channel in range(3))
    vivid = lightest.astype(np.float32) - darkest > INK_SATURATION * lightest
    is_green = (green > red + INK_LEAD) & (green > blue + INK_LEAD / 3)
    is_blue = (blue > red + 3 * INK_LEAD) & (blue > green + INK_LEAD)
    return np.asarray(vivid & (is_green | is_blue))


def _without_foreign(found: Mask, foreign: Mask) -> Mask:
    """Drops from `found` the dark or vivid spots outside tissue, and their blurred rims."""
    rim = _dilated(foreign, INK_RIM)
    _, labels = cv2.connectedComponents(rim.astype(np.uint8))
    count = int(labels.max()) + 1
    # the nearest spot's label on the ring around it
    spread = cv2.dilate(labels.astype(np.float32), np.ones((5, 5), np.uint8)).astype(np.int32)
    ring = np.where(rim, 0, spread)
    around = np.bincount(ring.ravel(), minlength=count)
    tissue = np.bincount(ring[found], minlength=count)
    drop = tissue <= TISSUE_AROUND * around
    drop[0] = False
    rest = np.asarray((found | foreign) & ~drop[labels])
    # tissue that ink touches reached into the rim
    return rest | (_dilated(rest, INK_RIM + 1) & found)


def _dilated(mask: Mask, radius: int) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)) > 0
