"""Reads tissue masks that a person or another program made: GeoJSON and images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, SlideError
from wsisr.slides import Slide, View, open_slide
from wsisr.tissue.find import MASK_SIDE, mask_factor
from wsisr.tissue.mask import Mask, TissueMask

MAX_JSON = 256 << 20


def load_mask(path: Path, view: View) -> TissueMask:
    """Reads a mask drawn by a person or another program.

    GeoJSON (.geojson, .json) has polygons in level-0 px, as QuPath exports them; whatever a
    polygon touches is tissue. An image covers the whole slide, at any resolution: tissue is what
    is not black (in a JPEG, lighter than mid-grey).

    Args:
        path: the file.
        view: the resolution of the slide that the mask is for.

    Returns:
        The mask, in px of the view.

    Raises:
        OptionError: the file is missing, is neither GeoJSON nor an image, or has another shape
            than the slide.
    """
    check_mask_file(path)
    factor = mask_factor(view)
    shape = math.ceil(view.height / factor), math.ceil(view.width / factor)
    if path.suffix.lower() in (".geojson", ".json"):
        mask = _rasterised(_polygons(path), shape, view.downsample * factor)
    else:
        mask = _from_image(path, view, shape)
    return TissueMask(mask, float(factor), view.downsample)


def check_mask_file(path: Path) -> None:
    """Checks that a mask file is there.

    Args:
        path: the file.

    Raises:
        OptionError: it is missing.
    """
    if not path.exists():
        raise OptionError("tissue", path, "neither auto, off, nor an existing mask file")


def _polygons(path: Path) -> Iterator[list[NDArray[np.float64]]]:
    """Yields the polygons of a GeoJSON file, each its rings (n, 2) in level-0 px."""
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
        raise OptionError("tissue", path, f"not GeoJSON with polygons ({reason})") from error


def _geometries(content: Any) -> Iterator[dict[str, Any]]:
    """Yields the polygons in GeoJSON of any nesting; points and lines have no area."""
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
    """Marks every mask px a polygon touches; a hole counts only where it covers whole px."""
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
    """Marks every mask px in which a mask image has a px that is set."""
    try:
        with open_slide(path) as image:
            stretch = (image.width / view.width) / (image.height / view.height)
            slack = 1.02 + 2 / min(image.width, image.height)
            if not 1 / slack <= stretch <= slack:
                raise OptionError(
                    "tissue",
                    path,
                    f"{image.width}x{image.height} px have another shape than the slide's "
                    f"{view.width}x{view.height}; export the mask of the whole slide",
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
        raise OptionError("tissue", path, f"not a mask image or GeoJSON ({error})") from error


def _filled_up(mask: Mask, image: Slide, threshold: int) -> Mask:
    """Enlarges a mask image that is coarser than the mask."""
    pixels = image.read(0, 0, 0, image.width, image.height).max(axis=2) > threshold
    size = mask.shape[1], mask.shape[0]
    grown = cv2.resize(pixels.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return mask | (np.asarray(grown) > 0)
