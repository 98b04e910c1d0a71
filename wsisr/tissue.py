"""Where a slide has tissue; everywhere else it is resized only.

Both errors cost: glass taken for tissue costs time, tissue taken for glass costs detail. So the
mask leans towards tissue: low thresholds, ink and black only where they are no part of tissue,
then a margin around all that was found.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError, SlideError, UsageError
from wsisr.slides import Slide, View, open_slide, select_view
from wsisr.slides.view import coarser_view

MASK_MPP = 8.0
"""um a mask px is wide, where the resolution is known and the mask stays within `MASK_SIDE`."""
MASK_SIDE = 2048
"""Largest side of the mask in px."""
BAND_ROWS = 256
"""Mask rows made at once."""
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
MAX_JSON = 256 << 20

Mask = NDArray[np.bool_]
RGB = NDArray[np.uint8]


@dataclass(frozen=True)
class TissueMask:
    """Tissue at a low resolution.

    mask: bool (rows, columns). downsample: view px a mask px is wide. view_downsample: level-0 px
    a view px is wide.
    """

    mask: Mask
    downsample: float
    view_downsample: float = 1.0

    @property
    def fraction(self) -> float:
        """Part of the slide that is tissue, 0 to 1."""
        return float(self.mask.mean())

    def overlaps(self, x: int, y: int, width: int, height: int) -> bool:
        """Whether tissue lies in a rectangle of view px, or within one mask px of it."""
        left, top = math.floor(x / self.downsample) - 1, math.floor(y / self.downsample) - 1
        right = math.ceil((x + width) / self.downsample) + 1
        bottom = math.ceil((y + height) / self.downsample) + 1
        return bool(self.mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].any())

    def to_geojson(self, path: Path) -> None:
        """Write the outlines as QuPath annotations, in level-0 px (RFC 7946 geometry).

        The outlines follow the edges of mask px. Raises `OutputError`.
        """
        scale = self.downsample * self.view_downsample
        features = [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [_closed(ring * scale) for ring in rings],
                },
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": "Tissue", "color": [0, 160, 80]},
                },
            }
            for rings in _outlines(self.mask)
        ]
        try:
            path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written ({error.strerror}); choose another place"
            ) from error


def tissue_mask(source: Slide | View) -> TissueMask:
    """Find tissue by its difference from the glass.

    A mask px is `MASK_MPP` um wide, or more where the mask would exceed `MASK_SIDE`. It is made
    in bands from the coarsest stored level that suffices, so memory does not grow with the slide.
    Without light, colourless glass everything but black is tissue. Raises what `View.read` raises.
    """
    view = source if isinstance(source, View) else select_view(source)
    factor = mask_factor(view)
    small = coarser_view(view, factor)
    pixels = np.concatenate(
        [
            small.read(0, y, small.width, min(BAND_ROWS, small.height - y))
            for y in range(0, small.height, BAND_ROWS)
        ]
    )
    return TissueMask(find_tissue(pixels), float(factor), view.downsample)


def mask_factor(view: View) -> int:
    """How many view px a mask px is wide."""
    by_size = math.ceil(max(view.width, view.height) / MASK_SIDE)
    by_mpp = 1 if view.mpp is None else math.floor(MASK_MPP / view.mpp)
    return max(1, by_size, by_mpp)


def find_tissue(pixels: RGB) -> Mask:
    """Tissue, with its margin, in a low-resolution image: bool of the shape of `pixels` (h, w, 3).

    A pixel differs from glass by more than the noise of the glass, in lightness or in colour.
    Black borders and green, blue or black marker ink are dropped where no tissue surrounds them;
    red ink has the colour of blood and stays.
    """
    smooth = cv2.GaussianBlur(pixels, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE)
    lightest, darkest = smooth.max(axis=2), smooth.min(axis=2)
    foreign = (lightest < BLACK) | _ink(smooth, lightest, darkest)
    glass = glass_colour(smooth[~foreign])
    found = ~foreign if glass is None else _differs(smooth, glass)
    found = _without_foreign(found, foreign)
    return _dilated(found, MARGIN)


def glass_colour(pixels: RGB) -> NDArray[np.float32] | None:
    """Colour of the lightest matter in `pixels` (n, 3), None where that is no glass.

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


def load_mask(path: Path, view: View) -> TissueMask:
    """A mask drawn by a person or another program.

    GeoJSON (.geojson, .json) has polygons in level-0 px, as QuPath exports them; whatever a
    polygon touches is tissue. An image covers the whole slide, at any resolution: tissue is what
    is not black (in a JPEG, lighter than mid-grey). Raises `UsageError` for a file that is
    missing, is neither, or has another shape than the slide.
    """
    if not path.exists():
        raise UsageError(f"--tissue {path}: neither auto, off, nor an existing mask file")
    factor = mask_factor(view)
    shape = math.ceil(view.height / factor), math.ceil(view.width / factor)
    if path.suffix.lower() in (".geojson", ".json"):
        mask = _rasterised(_polygons(path), shape, view.downsample * factor)
    else:
        mask = _from_image(path, view, shape)
    return TissueMask(mask, float(factor), view.downsample)


def _differs(smooth: RGB, glass: NDArray[np.float32]) -> Mask:
    """Where an image differs from the colour of glass, specks of noise left out."""
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
    """`found` less those dark or vivid spots, and their blurred rims, that lie outside tissue."""
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


def _outlines(mask: Mask) -> Iterator[list[NDArray[np.float64]]]:
    """For each patch its outer ring and its holes, (n, 2) as x, y in mask px."""
    # on a lattice of half px, a px covers its own edges: contours through lattice points are exact
    lattice = np.zeros((2 * mask.shape[0] + 1, 2 * mask.shape[1] + 1), np.uint8)
    for dy in (0, 1, 2):
        for dx in (0, 1, 2):
            lattice[dy : dy + 2 * mask.shape[0] : 2, dx : dx + 2 * mask.shape[1] : 2] |= mask
    rings, tree = cv2.findContours(lattice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    points = [np.asarray(ring, np.float64).reshape(-1, 2) / 2 for ring in rings]
    for index in range(len(rings)):
        if tree[0][index][3] < 0:
            yield [
                points[index],
                *(points[hole] for hole in range(len(rings)) if tree[0][hole][3] == index),
            ]


def _closed(ring: NDArray[np.float64]) -> list[list[float]]:
    return [*ring.tolist(), ring[0].tolist()]


def _polygons(path: Path) -> Iterator[list[NDArray[np.float64]]]:
    """The polygons of a GeoJSON file, each its rings (n, 2) in level-0 px."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"it is larger than {MAX_JSON >> 20} MB")
        content = json.loads(path.read_text(encoding="utf-8"))
        for geometry in _geometries(content):
            coordinates = geometry.get("coordinates", [])
            for polygon in [coordinates] if geometry["type"] == "Polygon" else coordinates:
                rings = [np.asarray(ring, np.float64) for ring in polygon]
                if not rings or any(ring.ndim != 2 or ring.shape[1] < 2 for ring in rings):
                    raise ValueError("a polygon is not made of points")
                if not all(np.isfinite(ring).all() for ring in rings):
                    raise ValueError("a coordinate is not a finite number")
                yield [ring[:, :2] for ring in rings]
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"--tissue {path}: not GeoJSON with polygons ({reason})") from error


def _geometries(content: Any) -> Iterator[dict[str, Any]]:
    """The polygonal geometries in GeoJSON of any nesting; points and lines have no area."""
    if isinstance(content, list):
        members = content
    elif content["type"] == "FeatureCollection":
        members = content["features"]
    elif content["type"] == "GeometryCollection":
        members = content["geometries"]
    elif content["type"] == "Feature":
        members = [content["geometry"]] if content["geometry"] is not None else []
    else:
        if content["type"] in ("Polygon", "MultiPolygon"):
            yield content
        return
    for member in members:
        yield from _geometries(member)


def _rasterised(
    polygons: Iterator[list[NDArray[np.float64]]], shape: tuple[int, int], scale: float
) -> Mask:
    """Every mask px a polygon touches; a hole counts only where it covers whole px."""
    mask = np.zeros(shape, np.uint8)
    limit = 8 * MASK_SIDE
    for rings in polygons:
        # a px centre lies at a half: floor takes a point to the px it is in
        points = [np.clip(np.floor(ring / scale), -limit, limit).astype(np.int32) for ring in rings]
        left, top = np.clip(points[0].min(axis=0), 0, (shape[1], shape[0]))
        right, bottom = np.clip(points[0].max(axis=0) + 1, 0, (shape[1], shape[0]))
        if left >= right or top >= bottom:
            continue
        part = np.zeros((bottom - top, right - left), np.uint8)
        moved = [ring - (left, top) for ring in points]
        cv2.fillPoly(part, [moved[0].astype(np.int32)], 1)
        for hole in moved[1:]:
            cv2.fillPoly(part, [hole.astype(np.int32)], 0)
            cv2.polylines(part, [hole.astype(np.int32)], isClosed=True, color=1)
        mask[top:bottom, left:right] |= part
    return mask > 0


def _from_image(path: Path, view: View, shape: tuple[int, int]) -> Mask:
    """Every mask px in which a mask image has a px that is set."""
    try:
        with open_slide(path) as image:
            stretch = (image.width / view.width) / (image.height / view.height)
            slack = 1.02 + 2 / min(image.width, image.height)
            if not 1 / slack <= stretch <= slack:
                raise UsageError(
                    f"--tissue {path}: {image.width}x{image.height} px have another shape than "
                    f"the slide's {view.width}x{view.height}; export the mask of the whole slide"
                )
            threshold = 127 if image.vendor == "jpeg" else 0
            rows, columns = shape
            mask = np.zeros(shape, bool)
            band = max(1, (1 << 20) // image.width)
            for y in range(0, image.height, band):
                height = min(band, image.height - y)
                found = image.read(0, 0, y, image.width, height).max(axis=2) > threshold
                where = np.nonzero(found)
                mask[(where[0] + y) * rows // image.height, where[1] * columns // image.width] = (
                    True
                )
            if image.width < columns or image.height < rows:
                mask = _filled_up(mask, image, threshold)
            return mask
    except SlideError as error:
        raise UsageError(f"--tissue {path}: not a mask image or GeoJSON ({error})") from error


def _filled_up(mask: Mask, image: Slide, threshold: int) -> Mask:
    """A mask image coarser than the mask, enlarged."""
    pixels = image.read(0, 0, 0, image.width, image.height).max(axis=2) > threshold
    size = mask.shape[1], mask.shape[0]
    grown = cv2.resize(pixels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return mask | (np.asarray(grown) > 0)
