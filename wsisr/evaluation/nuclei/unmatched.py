"""Lost and invented nuclei as QuPath detections: GeoJSON (RFC 7946), one object a nucleus.

A lost nucleus is one of HR that none of SR matches, an invented one the reverse; what matches is
said in `wsisr.evaluation.nuclei.agreement`. Coordinates are level-0 px of the SR slide, or px of
the SR tile for folders of tiles, with (0, 0) the corner of the first pixel as in QuPath: the file
is opened on the super-resolved image, where the lost ones stand where they should have been.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from wsisr.errors import OutputError
from wsisr.evaluation.nuclei.agreement import NucleiAgreement
from wsisr.evaluation.nuclei.segmenter import Labels
from wsisr.evaluation.pairing import Location
from wsisr.files import commit_folder, remove

FOLDER = "lost_and_invented"
"""Name of the folder inside the report's."""
INVENTED, LOST = (0, 240, 255), (255, 230, 0)
"""Colours of outlines, RGB."""
_BEGIN, _END = '{"type": "FeatureCollection", "features": [\n', "\n]}\n"


@dataclass(frozen=True, eq=False)
class Unmatched:
    """A nucleus that one image of a pair has alone.

    Attributes:
        name: `lost` or `invented`.
        colour: of its outline, RGB.
        outline: (n, 2), x and y of a closed ring, px of the tile, (0, 0) the corner of its first
            pixel.
        area_px: its area in px.
        best_iou: largest IoU with any nucleus of the other image, 0 where there is none at all.
    """

    name: str
    colour: tuple[int, int, int]
    outline: npt.NDArray[np.float64]
    area_px: int
    best_iou: float


def find_unmatched(sr: Labels, hr: Labels, found: NucleiAgreement) -> list[Unmatched]:
    """Finds what two label images of one tile do not share.

    Args:
        sr: label image of SR.
        hr: label image of HR.
        found: their agreement.

    Returns:
        The lost nuclei, then the invented ones.
    """
    sides = (
        ("lost", LOST, hr, found.lost(), found.hr_best),
        ("invented", INVENTED, sr, found.invented(), found.sr_best),
    )
    return [
        Unmatched(name, colour, ring, area, float(best[label - 1]))
        for name, colour, labels, chosen, best in sides
        for label, ring, area in _rings(labels, chosen)
    ]


def _rings(
    labels: Labels, chosen: npt.NDArray[np.int64]
) -> Iterator[tuple[int, npt.NDArray[np.float64], int]]:
    """Yields (label, outline, area) of the chosen labels."""
    if not len(chosen):
        return
    boxes = _boxes(labels)
    for label in chosen:
        left, top, right, bottom = boxes[label - 1]
        mask = labels[top:bottom, left:right] == label
        ring = outline(mask) + np.array([left, top])
        yield int(label), ring, int(mask.sum())


def _boxes(labels: Labels) -> npt.NDArray[np.int64]:
    """Gives (left, top, right, bottom) of each label, (n, 4), the last two exclusive."""
    rows, columns = np.nonzero(labels)
    index = labels[rows, columns] - 1
    boxes = np.empty((int(labels.max()), 4), np.int64)
    boxes[:, :2], boxes[:, 2:] = max(labels.shape), 0
    for side, values in ((0, columns), (1, rows)):
        np.minimum.at(boxes[:, side], index, values)
        np.maximum.at(boxes[:, side + 2], index, values + 1)
    return boxes


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Draws the outer ring of a region by marching squares.

    The ring cuts the corners of pixels, never touches itself and holds the centres of exactly the
    region's pixels, holes filled. Of several regions the largest is taken.

    Args:
        mask: (h, w) bool.

    Returns:
        (n, 2) x and y, first point again at the end, of positive area in x and y as numbers (the
        order RFC 7946 asks for).
    """
    rings = find_contours(np.pad(mask, 1).astype(np.float32), 0.5, fully_connected="high")
    # from centres of the padded image, rows first, to corners of the mask's, x first
    ring = max((ring[:, ::-1] - 0.5 for ring in rings), key=lambda ring: abs(_area(ring)))
    if _area(ring) < 0:
        ring = ring[::-1]
    steps = np.diff(ring, axis=0)
    before = np.roll(steps, 1, axis=0)
    turns = before[:, 0] * steps[:, 1] != before[:, 1] * steps[:, 0]
    corners = ring[:-1][turns]
    return np.concatenate([corners, corners[:1]])


def _area(ring: npt.NDArray[np.float64]) -> float:
    """Gives the signed area of a closed ring."""
    x, y = ring.T
    return float(0.5 * (x[:-1] * y[1:] - x[1:] * y[:-1]).sum())


def feature(nucleus: Unmatched, x: int, y: int, mpp: float) -> dict[str, object]:
    """Makes the GeoJSON feature of a nucleus.

    Args:
        nucleus: the nucleus.
        x: left edge of its tile.
        y: top edge of its tile.
        mpp: um/px.

    Returns:
        The feature, ready for JSON.
    """
    ring = (nucleus.outline + np.array([x, y])).tolist()
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "detection",
            "classification": {"name": nucleus.name, "color": list(nucleus.colour)},
            "measurements": {
                "area um2": round(nucleus.area_px * mpp**2, 3),
                "best IoU": round(nucleus.best_iou, 4),
            },
        },
    }


def is_own_folder(folder: Path) -> bool:
    """Tells whether a folder holds files of `UnmatchedFiles` and nothing else."""
    if not folder.is_dir():
        return False
    try:
        return all(map(_is_own_file, (path for path in folder.rglob("*") if not path.is_dir())))
    except OSError:
        return False


def _is_own_file(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(len(_BEGIN))
    # a kill may have come before anything was written
    return path.suffix == ".geojson" and _BEGIN.encode().startswith(head)


class UnmatchedFiles:
    """Writes lost and invented nuclei while tiles are judged; holds those of one tile.

    For slides there is one file a method, `METHOD.geojson`; with `by_tile` one a method and tile,
    `METHOD/TILE.geojson`. All are written to a folder whose name says that it is partial, which
    takes the place of that of an earlier run when the `with` block ends well, and goes when it
    does not.

    Args:
        out: folder of the report.
        mpp: um/px.
        by_tile: whether each tile has a file of its own.

    Raises:
        OutputError: a file cannot be written.
    """

    def __init__(self, out: Path, mpp: float, *, by_tile: bool) -> None:
        self._folder, self._partial = out / FOLDER, out / f"{FOLDER}.partial"
        self._out, self._mpp, self._by_tile = out, mpp, by_tile
        self._open: dict[str, _Collection] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            if self._partial.exists():
                shutil.rmtree(self._partial)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def add(self, location: Location, method: str, nuclei: Iterable[Unmatched]) -> None:
        """Appends the nuclei of one tile; a tile without any leaves a valid file too."""
        features = (feature(nucleus, location.x, location.y, self._mpp) for nucleus in nuclei)
        try:
            if self._by_tile:
                with _Collection(self._partial / method / f"{location.name}.geojson") as file:
                    file.add(features)
                return
            if method not in self._open:
                file = _Collection(self._partial / f"{method}.geojson")
                self._open[method] = self._stack.enter_context(file)
            self._open[method].add(features)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._stack.close()
            if kind is not None:
                shutil.rmtree(self._partial, ignore_errors=True)
            else:
                if self._partial.exists():
                    commit_folder(self._partial, self._folder)
                elif self._folder.exists():
                    remove(self._folder)
        except OSError as failure:
            raise self._failed(failure) from failure

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"<out> {self._out} cannot be written: {error.strerror}")


class _Collection:
    """A FeatureCollection that grows; valid from the moment it is closed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._file.write(_BEGIN)
        self._separator = ""

    def __enter__(self) -> Self:
        return self

    def add(self, features: Iterable[dict[str, object]]) -> None:
        """Appends features, one a line."""
        for item in features:
            self._file.write(self._separator + json.dumps(item, allow_nan=False))
            self._separator = ",\n"

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.write(_END)
