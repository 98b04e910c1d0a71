"""The tissue mask of a slide, and its outlines as GeoJSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from wsisr.files import os_errors, write_atomic
from wsisr.guard import refuse_foreign, refuse_links

MASK_HEAD = '{"type": "FeatureCollection", "software": "wsisr", "features": '
"""How a mask file begins that is known for ours; other programs drop the software's name."""
Mask = NDArray[np.bool_]
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class TissueMask:
    """Says where a view of a slide has tissue, at a low resolution.

    Attributes:
        mask: bool (rows, columns), true for tissue.
        downsample: how many view px a mask px is wide.
        view_downsample: how many level-0 px a view px is wide.
    """

    mask: Mask
    downsample: float
    view_downsample: float = 1.0

    @property
    def fraction(self) -> float:
        """Gives the part of the slide that is tissue, 0 to 1."""
        return float(self.mask.mean())

    def overlaps(self, x: int, y: int, width: int, height: int) -> bool:
        """Tells whether tissue lies in a rectangle of view px, or within one mask px of it."""
        left, top = math.floor(x / self.downsample) - 1, math.floor(y / self.downsample) - 1
        right = math.ceil((x + width) / self.downsample) + 1
        bottom = math.ceil((y + height) / self.downsample) + 1
        return bool(self.mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)].any())

    def overlaps_grid(self, columns: Spans, rows: Spans) -> Mask:
        """Tells for each rectangle of a grid what `overlaps` tells of one.

        Args:
            columns: first view px and the one behind the last, of each column of the grid.
            rows: the same of each row.

        Returns:
            bool (rows, columns).
        """
        height, width = self.mask.shape
        sums = np.zeros((height + 1, width + 1), np.int64)
        self.mask.cumsum(0, np.int64).cumsum(1, out=sums[1:, 1:])
        top, bottom = self._mask_px(rows, height)
        left, right = self._mask_px(columns, width)
        lower, upper = sums[bottom], sums[top]
        counts = lower[:, right] - lower[:, left] - upper[:, right] + upper[:, left]
        return np.asarray(counts > 0)

    def _mask_px(self, spans: Spans, size: int) -> NDArray[np.int64]:
        """Gives the mask px that lie within one px of spans of view px, (2, n)."""
        first, behind = np.asarray(spans, np.float64).T
        edges = np.floor(first / self.downsample) - 1, np.ceil(behind / self.downsample) + 1
        px: NDArray[np.int64] = np.clip(np.stack(edges), 0, size).astype(np.int64)
        return px

    def share(self, x: int, y: int, width: int, height: int) -> float:
        """Gives the part of a rectangle of view px that is tissue, 0 to 1.

        The rectangle is rounded to whole mask px, of which it holds at least one; what lies beyond
        the mask is left out.
        """
        left, top = max(0, round(x / self.downsample)), max(0, round(y / self.downsample))
        right = max(round((x + width) / self.downsample), left + 1)
        bottom = max(round((y + height) / self.downsample), top + 1)
        part = self.mask[top:bottom, left:right]
        return float(part.mean()) if part.size else 0.0

    def to_geojson(self, path: Path, *, overwrite: bool = False) -> None:
        """Writes the outlines as QuPath annotations, in level-0 px (RFC 7946 geometry).

        The outlines follow the edges of mask px. A file with these outlines is left as it is.

        Args:
            path: file to write.
            overwrite: whether to replace another mask that wsisr has written.

        Raises:
            UsageError: a file is there that is not to be replaced.
            OutputError: the file cannot be written.
        """
        if self.lacks_file(path, overwrite=overwrite):
            with os_errors(path):
                write_atomic(path, self._geojson())

    def lacks_file(self, path: Path, *, overwrite: bool = False) -> bool:
        """Tells whether a file with the outlines is still to be written.

        Args:
            path: the file.
            overwrite: whether another mask that wsisr has written may be replaced.

        Raises:
            UsageError: a file is there that is not to be replaced.
        """
        refuse_links([path])
        if is_own_mask(path) and path.read_text(encoding="utf-8") == self._geojson():
            return False
        refuse_foreign(path, is_own_mask, overwrite=overwrite)
        return True

    def _geojson(self) -> str:
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
        return MASK_HEAD + json.dumps(features) + "}"


def is_own_mask(path: Path) -> bool:
    """Tells whether a file is a mask as `TissueMask.to_geojson` writes it, and nobody changed."""
    try:
        with path.open("rb") as file:
            return file.read(len(MASK_HEAD)) == MASK_HEAD.encode()
    except OSError:
        return False


def _outlines(mask: Mask) -> Iterator[list[NDArray[np.float64]]]:
    """Yields for each patch its outer ring and its holes, (n, 2) as x, y in mask px."""
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
