"""Reads OME-Zarr images (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3) through zarr-python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from wsisr.errors import SlideError
from wsisr.parsing import MAX_XML_CHARACTERS, MalformedError, read_bytes
from wsisr.slides.base import RGB, WHITE, SlideInfo, StoredSlide, filled, mean_mpp
from wsisr.slides.grid import parts_of
from wsisr.slides.tiff import parse_ome

MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4}
MAX_LEVELS = 64
MAX_PROFILE = 16 << 20
"""Bytes of the largest colour profile."""
LARGE_CHUNK_BYTES = 16 << 20
"""Chunks larger than this are decoded one after another."""


def is_zarr(path: Path) -> bool:
    """Tells whether a folder is a Zarr group."""
    return any((path / name).is_file() for name in (".zattrs", ".zgroup", "zarr.json"))


def open_zarr(path: Path, *, unreadable: set[tuple[str, int, int]] | None = None) -> StoredSlide:
    """Opens an OME-Zarr image of three uint8 channels (or one) in one plane.

    Nothing is cached; a read decodes the chunks it touches. A chunk that was not stored has the
    array's fill value, as Zarr has it.

    Args:
        path: the folder.
        unreadable: where given, chunks that cannot be decoded are recorded in it, see `ZarrLevel`.

    Returns:
        The open slide.

    Raises:
        SlideError: a folder that is incomplete, or holds images of another kind.
    """
    # only here: zarr takes longer to import than most slides to open
    from wsisr.slides.zarr_arrays import attributes_of, open_array

    try:
        attributes = attributes_of(path)
        attributes = attributes.get("ome", attributes)
        multiscale = attributes["multiscales"][0]
        axes = [str(axis["name"]).lower() for axis in multiscale["axes"]]
        names = [str(entry["path"]) for entry in multiscale["datasets"]]
        if not 0 < len(names) <= MAX_LEVELS:
            raise ValueError(f"it has {len(names)} levels")
        levels = [ZarrLevel(path, open_array(path, n), axes, n, unreadable) for n in names]
        mpp = pixel_size(path, multiscale)
    except (
        ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [""])[0][:200]
        raise SlideError(
            f"{path} is not an OME-Zarr image that can be understood ({type(error).__name__}: "
            f"{reason}); check that the folder is complete"
        ) from error
    info = SlideInfo(
        vendor="ome-zarr",
        mpp=mpp,
        icc_profile=_read_inside(path, "OME/profile.icc", MAX_PROFILE),
        magnification=magnification(path),
        properties={"ome-zarr.multiscales": json.dumps(multiscale)},
    )
    return StoredSlide(path, levels, info)


def pixel_size(path: Path, multiscale: dict[str, Any]) -> float | None:
    """Works out um/px of the first level from its scale and the axes' units; None without units."""
    sizes: dict[str, float] = {}
    for index, axis in enumerate(multiscale["axes"]):
        unit = MICROMETRES.get(str(axis.get("unit")))
        for change in multiscale["datasets"][0].get("coordinateTransformations", []):
            if change.get("type") == "scale" and unit is not None:
                size = float(change["scale"][index]) * unit
                if math.isfinite(size) and size > 0:
                    sizes[str(axis["name"]).lower()] = size
    return mean_mpp(path, sizes.get("x"), sizes.get("y"))


def magnification(path: Path) -> float | None:
    """Reads the magnification of the first image in `OME/METADATA.ome.xml`, where there is one."""
    data = _read_inside(path, "OME/METADATA.ome.xml", MAX_XML_CHARACTERS)
    images = [] if data is None else parse_ome(data.decode("utf-8", "replace"))
    return images[0].magnification if images else None


def _read_inside(path: Path, name: str, most: int) -> bytes | None:
    """Reads a file that stands beside the pixels; None where there is none.

    Raises:
        SlideError: it is a link that leaves the folder, or cannot be read.
    """
    from wsisr.slides.zarr_arrays import inside

    file = inside(path, name)
    if not file.is_file():
        return None
    try:
        return read_bytes(file, most)
    except MalformedError as error:
        raise SlideError(f"{path}: {name} cannot be used: {error}; remove it") from error


class ZarrLevel:
    """Reads one array of an OME-Zarr as a `LevelPixels`.

    Where a set of unreadable places is given, chunks that cannot be decoded are recorded in it as
    (`level NAME`, column, row) and read as background; without one they are errors.
    """

    def __init__(
        self,
        path: Path,
        array: Any,
        axes: list[str],
        name: str,
        unreadable: set[tuple[str, int, int]] | None,
    ) -> None:
        shape = dict(zip(axes, array.shape, strict=True))
        if len(shape) != len(axes) or not {"x", "y"} <= shape.keys():
            raise ValueError("its axes are not those of an image")
        channels = shape.get("c", 1)
        planes = [shape.get(axis, 1) for axis in "tz"]
        if array.dtype != np.uint8 or channels not in (1, 3) or planes != [1, 1]:
            raise SlideError(
                f"{path} holds {array.dtype} {shape}; only uint8 images of one or three channels "
                "in one plane can be read"
            )
        self.width, self.height = shape["x"], shape["y"]
        self._path, self._array, self._axes, self._name = path, array, axes, name
        self._chunk = dict(zip(axes, array.chunks, strict=True))
        self._unreadable = unreadable
        # zarr decodes several chunks at a time
        self._one_by_one = math.prod(array.chunks) > LARGE_CHUNK_BYTES

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region, see `LevelPixels.read`."""
        if not self._one_by_one:
            try:
                return self._read(x, y, width, height)
            except SlideError:
                if self._unreadable is None:
                    raise
        out = np.empty((height, width, 3), np.uint8)
        piece = self._chunk["x"], self._chunk["y"]
        for part in parts_of(x, y, width, height, piece=piece):
            try:
                pixels = self._read(part.left, part.top, part.width, part.height)
            except SlideError:
                if self._unreadable is None:
                    raise
                self._unreadable.add((f"level {self._name}", part.column, part.row))
                pixels = filled(part.width, part.height, WHITE)
            out[part.within(x, y)] = pixels
        return out

    def _read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region all of whose chunks can be decoded."""
        spans = {"x": slice(x, x + width), "y": slice(y, y + height), "c": slice(None)}
        kept = [axis for axis in self._axes if axis in spans]
        try:
            pixels = np.asarray(self._array[tuple(spans.get(axis, 0) for axis in self._axes)])
        except SlideError:
            raise
        except Exception as error:  # zarr's stores and codecs raise errors of any kind
            raise SlideError(
                f"{self._path}: level {self._name}, {width}x{height} pixels at ({x}, {y}) cannot "
                f"be decoded ({type(error).__name__}); copy the folder again"
            ) from error
        if "c" not in kept:
            pixels, kept = pixels[np.newaxis], ["c", *kept]
        pixels = pixels.transpose([kept.index(axis) for axis in "yxc"])
        return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))
