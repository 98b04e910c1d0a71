"""Chooses tiles from folders of real tiles, and reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsisr.errors import OptionError, UsageError
from wsisr.evaluation.measures import Image
from wsisr.evaluation.pairing import read_image
from wsisr.resize import reduce_area

TILE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MPP = 0.25


@dataclass(frozen=True)
class DataSet:
    """A folder of real tiles; its sub-folders are slides.

    Attributes:
        label: its name in the table.
        folder: where its tiles are.
        mpp: size of a pixel in um.
    """

    label: str
    folder: Path
    mpp: float = MPP


def list_tiles(
    folder: Path, slides: Sequence[str] | None = None, limit: int | None = None
) -> list[Path]:
    """Returns image files below a folder, sorted.

    Args:
        folder: where to look.
        slides: names of the slides (sub-folders) to be taken, None for all.
        limit: how many tiles to take, spread evenly over those slides; None for all.

    Raises:
        OptionError: the limit is below 1, or a slide is not in the folder.
        UsageError: there is no such folder, or no image file in it.
    """
    if limit is not None and limit < 1:
        raise OptionError("limit", limit, "must be 1 or more")
    found = _image_files(folder)
    if slides is not None:
        named = slide_names(folder)
        for name in slides:
            if name not in named:
                rule = f"{folder} has no slide of that name; it has {', '.join(named)}"
                raise OptionError("slides", name, rule)
        found = [path for path in found if slide_of(folder, path) in slides]
    if limit is None or limit >= len(found):
        return found
    return [found[i * len(found) // limit] for i in range(limit)]


def slide_names(folder: Path) -> list[str]:
    """Returns the names of a folder's slides, sorted; `.` for tiles in the folder itself.

    Raises:
        UsageError: there is no such folder, or no image file in it.
    """
    return sorted({slide_of(folder, path) for path in _image_files(folder)})


def slide_of(folder: Path, path: Path) -> str:
    """Returns the name of a tile's slide: its sub-folder."""
    return path.relative_to(folder).parent.as_posix()


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"<tiles> {folder} is not a folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in TILE_SUFFIXES)
    if not found:
        raise UsageError(f"<tiles> {folder} holds no image files {TILE_SUFFIXES}")
    return found


def read_cropped(path: Path, scale: int) -> Image:
    """Reads a tile, cropped to multiples of the scale; uint8 RGB (h, w, 3)."""
    image = read_image(path)
    height, width = (side // scale * scale for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


def block_means(image: Image, side: int) -> Image:
    """Averages blocks of side x side pixels, halves rounded up: the mean that `exact` promises.

    Args:
        image: uint8 (h, w, 3), h and w multiples of `side`.
        side: pixels of a block's side.

    Returns:
        uint8 (h / side, w / side, 3).
    """
    height, width = image.shape[:2]
    return reduce_area(
        np.ascontiguousarray(image),
        factor=float(side),
        start=(0, 0),
        count=(width // side, height // side),
        size=(width, height),
    )
