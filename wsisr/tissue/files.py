"""Reads tissue masks that a person or another program made: GeoJSON and images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError
from wsisr.parsing import read_features
from wsisr.slides import View
from wsisr.tissue.find import MASK_SIDE, mask_factor
from wsisr.tissue.images import read_mask_image
from wsisr.tissue.mask import Mask, TissueMask


class Polygon(NamedTuple):
    """A polygon of a GeoJSON file.

    Attributes:
        rings: the outer one and its holes, each (n, 2) in level-0 px.
        ignored: whether what it covers is no tissue, whatever else covers it.
    """

    rings: list[NDArray[np.float64]]
    ignored: bool


def load_mask(path: Path, view: View) -> TissueMask:
    """Reads a mask drawn by a person or another program.

    GeoJSON (.geojson, .json) has polygons in level-0 px, as QuPath exports them; whatever a
    polygon touches is tissue, but for what polygons of the class `Ignore*` cover. An image covers
    the whole slide, at any resolution: tissue is what is neither black (in a JPEG, darker than
    mid-grey) nor transparent nor label 0.

    Args:
        path: the file.
        view: the resolution of the slide that the mask is for.

    Returns:
        The mask, in px of the view.

    Raises:
        OptionError: the file is missing, is neither GeoJSON nor an image, has another shape than
            the slide, or marks nothing of it (an image: all of it).
    """
    check_mask_file(path)
    factor = mask_factor(view)
    shape = math.ceil(view.height / factor), math.ceil(view.width / factor)
    if path.suffix.lower() in (".geojson", ".json"):
        mask = _rasterised(_polygons(path), shape, view.downsample * factor)
    else:
        mask = read_mask_image(path, view, shape)
    if not mask.any():
        raise OptionError(
            "tissue",
            path,
            "marks nothing of the slide; check that it belongs to it, and has level-0 pixels",
        )
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


def _polygons(path: Path) -> Iterator[Polygon]:
    """Yields the polygons of a GeoJSON file."""
    try:
        for geometry, ignored in (
            each for part in read_features(path) for each in _geometries(part, False)
        ):
            coordinates = geometry.get("coordinates", [])
            for polygon in [coordinates] if geometry["type"] == "Polygon" else coordinates:
                rings = [np.asarray(ring, np.float64) for ring in polygon]
                if not rings or any(ring.ndim != 2 or ring.shape[1] < 2 for ring in rings):
                    raise ValueError("a polygon is not made of points")
                if not all(np.isfinite(ring).all() for ring in rings):
                    raise ValueError("a coordinate is not a finite number")
                yield Polygon([ring[:, :2] for ring in rings], ignored)
    except (
        ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise OptionError("tissue", path, f"not GeoJSON with polygons ({reason})") from error


def _is_ignored(feature: dict[str, Any]) -> bool:
    """Tells whether a feature has QuPath's class `Ignore*`, or one derived from it."""
    found = (feature.get("properties") or {}).get("classification")
    names = [found.get("name"), *(found.get("names") or [])] if isinstance(found, dict) else [found]
    return any(isinstance(name, str) and name.lower().startswith("ignore*") for name in names)


def _geometries(content: Any, ignored: bool) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yields polygons in GeoJSON of any nesting, and whether to ignore what they cover."""
    if isinstance(content, list):
        members = content
    elif content["type"] == "FeatureCollection":
        members = content["features"]
    elif content["type"] == "GeometryCollection":
        members = content["geometries"]
    elif content["type"] == "Feature":
        members = [content["geometry"]] if content["geometry"] is not None else []
        ignored = ignored or _is_ignored(content)
    else:
        if content["type"] in ("Polygon", "MultiPolygon"):
            yield content, ignored
        return
    for member in members:
        yield from _geometries(member, ignored)


def _rasterised(polygons: Iterator[Polygon], shape: tuple[int, int], scale: float) -> Mask:
    """Marks every mask px a polygon touches; holes and what is ignored count in whole px only."""
    mask, ignored = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    limit = 8 * MASK_SIDE
    for polygon in polygons:
        rings = polygon.rings
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
        if polygon.ignored:
            for ring in moved:
                cv2.polylines(part, [ring.astype(np.int32)], isClosed=True, color=0)
            ignored[top:bottom, left:right] |= part
        else:
            mask[top:bottom, left:right] |= part
    return np.asarray((mask > 0) & (ignored == 0))
