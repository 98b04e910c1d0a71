"""Nuclei of HR that are given by a file.

Any segmenter that runs elsewhere can so serve the measures of texture and intensity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.draw import polygon

from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures import Image, check_image, check_pair
from wsisr.evaluation.nuclei.classical import keep_by_area
from wsisr.evaluation.nuclei.segmenter import Labels, ReferenceNuclei
from wsisr.parsing import read_features
from wsisr.slides import read_values

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
GEOJSON_SUFFIXES = (".geojson", ".json")

MAX_COORDINATE = 1 << 31

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GivenNuclei:
    """Nuclei of HR from a folder of label images, or from GeoJSON as QuPath exports detections.

    Label images carry the tiles' names (PNG, TIFF or NPY; 0 is background) and HR's pixels.
    GeoJSON is in level-0 pixels of the HR slide. SR's nuclei are not given, so measures of
    agreement do not run.

    Attributes:
        path: the folder or the GeoJSON file.
    """

    path: Path
    searches = False
    uses_torch = False

    @property
    def convention(self) -> str:
        """Tells where the nuclei come from."""
        return f"nuclei of HR given by {self.path.name}"

    def segment(self, image: Image, mpp: float) -> Labels:
        """Refuses: given nuclei belong to places, see `at`.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{self.path} gives the nuclei of HR's tiles and finds none in others")

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Refuses, as `segment`.

        Raises:
            UsageError: always.
        """
        return ReferenceNuclei(self.segment(hr, mpp), lambda image: self.segment(image, mpp))

    def at(self, name: str, x: int, y: int, matrix: Matrix | None) -> PlacedNuclei:
        """Gives the nuclei of one tile.

        Args:
            name: the tile's name.
            x: its left edge, level-0 px of SR.
            y: its top edge, level-0 px of SR.
            matrix: (2, 3), from SR's level-0 px to HR's; None for tiles of folders.

        Returns:
            What finds them.
        """
        return PlacedNuclei(self, name, x, y, matrix)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Lists the label images, {tile name: file}.

        Raises:
            UsageError: the folder holds none.
        """
        found = {
            path.relative_to(self.path).with_suffix("").as_posix(): path
            for path in sorted(self.path.rglob("*"))
            if path.suffix.lower() in LABEL_SUFFIXES
        }
        if not found:
            raise UsageError(f"{self.path} holds no label images ({', '.join(LABEL_SUFFIXES)})")
        return found

    @cached_property
    def outlines(self) -> list[Matrix]:
        """Reads the outline of each nucleus, (points, 2) x and y.

        Raises:
            UsageError: the file is no GeoJSON of polygons.
        """
        try:
            outlines = [ring for feature in read_features(self.path) for ring in _rings(feature)]
        except (
            ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError,
        ) as error:  # fmt: skip
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UsageError(f"{self.path} is no GeoJSON of polygons ({reason})") from error
        if not outlines:
            raise UsageError(f"{self.path} holds no polygons; export the detections again")
        return outlines


@dataclass(frozen=True)
class PlacedNuclei:
    """The given nuclei of one tile.

    Attributes:
        given: all nuclei.
        name: the tile's name.
        x: its left edge, level-0 px of SR.
        y: its top edge, level-0 px of SR.
        matrix: (2, 3), from SR's level-0 px to HR's; None for tiles of folders.
    """

    given: GivenNuclei
    name: str
    x: int
    y: int
    matrix: Matrix | None
    searches = False
    uses_torch = False

    @property
    def convention(self) -> str:
        """Tells where the nuclei come from."""
        return self.given.convention

    def segment(self, image: Image, mpp: float) -> Labels:
        """Gives the given nuclei, whatever the image shows.

        Args:
            image: (h, w, 3) uint8 RGB, which gives the size.
            mpp: um/px, which plays no part.

        Returns:
            The label image.

        Raises:
            SlideError: there is no label image of the tile, or it has another size.
            UsageError: the nuclei are GeoJSON and the tile lies on no slide.
        """
        check_image(image, "the image")
        if self.given.path.is_dir():
            return self._read(image)
        return self._drawn(image)

    def against(self, hr: Image, mpp: float) -> ReferenceNuclei:
        """Gives HR's nuclei; nothing finds those of other images.

        Args:
            hr: (h, w, 3) uint8 RGB, which gives the size.
            mpp: um/px, which plays no part.

        Returns:
            HR's nuclei, and a way to find others that raises `UsageError`.
        """

        def find(image: Image) -> Labels:
            check_pair(image, hr)
            raise UsageError(f"{self.given.path} gives HR's nuclei alone, none of other images")

        return ReferenceNuclei(self.segment(hr, mpp), find)

    def _read(self, image: Image) -> Labels:
        path = self.given.files.get(self.name)
        if path is None:
            raise SlideError(f"{self.given.path} has no label image of tile {self.name}")
        labels = read_labels(path)
        if labels.shape != image.shape[:2]:
            raise SlideError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]} px, its tile "
                f"{image.shape[1]}x{image.shape[0]} px"
            )
        return labels

    def _drawn(self, image: Image) -> Labels:
        if self.matrix is None:
            raise UsageError(
                f"{self.given.path}: GeoJSON needs slides, whose pixels it is in; give a folder "
                "of label images for tiles"
            )
        labels = np.zeros(image.shape[:2], np.int32)
        back = np.linalg.inv(np.vstack([self.matrix, [0, 0, 1]]))
        limit = np.array(labels.shape[::-1])
        number = 0
        for outline in self.given.outlines:
            points = outline @ back[:2, :2].T + back[:2, 2] - (self.x, self.y)
            if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= limit).any():
                continue
            # coordinates are of pixel corners, the drawing's of their centres
            inside = polygon(points[:, 1] - 0.5, points[:, 0] - 0.5, labels.shape)
            number += 1
            labels[inside] = number
        return keep_by_area(labels, 1, np.inf)


def read_labels(path: Path) -> Labels:
    """Reads a label image.

    Args:
        path: an image file or an NPY array of one channel of whole numbers, 0 background.

    Returns:
        (h, w) int32, numbered 1..n without gaps.

    Raises:
        SlideError: it is something else.
    """
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = read_values(path)
    except Exception as error:  # numpy and the decoders raise errors of any kind
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SlideError(f"{path} cannot be read as a label image: {reason}") from error
    if (
        not isinstance(values, np.ndarray)  # of a .npy that is an archive
        or not values.size
        or values.ndim != 2
        or values.dtype.kind not in "iub"
        or values.min() < 0
    ):
        raise SlideError(f"{path} is no label image: one channel of whole numbers, 0 background")
    _, numbered = np.unique(values, return_inverse=True)
    # without background the lowest label would become it
    shift = 0 if (values == 0).any() else 1
    return np.asarray(numbered.reshape(values.shape) + shift, dtype=np.int32)


def _rings(feature: dict[str, Any]) -> list[Matrix]:
    """Gives the outer rings of a feature; of a cell, those of its nucleus."""
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    parts = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}
    rings = [
        np.asarray(part[0], dtype=np.float64)[:, :2] for part in parts.get(geometry["type"], [])
    ]
    for ring in rings:
        if ring.shape[1] != 2 or not ring.size or not (np.abs(ring) < MAX_COORDINATE).all():
            raise ValueError("a polygon is not made of points within a slide")
    return rings
