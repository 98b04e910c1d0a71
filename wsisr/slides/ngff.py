"""Reads OME-Zarr images (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3) through zarr-python."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsisr.errors import SlideError
from wsisr.parsing import MAX_XML_CHARACTERS, MalformedError, read_bytes
from wsisr.slides.base import RGB, WHITE, SlideInfo, StoredSlide, filled, mean_mpp
from wsisr.slides.grid import parts_of
from wsisr.slides.profiles import fitting_profile
from wsisr.slides.tiff import OmeImage, parse_ome

MICROMETRES = {
    "angstrom": 1e-4, "picometer": 1e-6, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3,
    "centimeter": 1e4, "decimeter": 1e5, "meter": 1e6, "inch": 25400.0, "foot": 304800.0,
    "yard": 914400.0, "micron": 1.0, "nm": 1e-3, "um": 1.0, "µm": 1.0, "mm": 1e3,
}  # fmt: skip
"""Lengths of NGFF (names of UDUNITS-2), and the short forms that writers use instead."""
AXES = ("t", "c", "z", "y", "x")
"""The axes of NGFF 0.1 and 0.2, which do not name them."""
PURE = ("FF0000", "00FF00", "0000FF")
"""Colours of red, green and blue channels."""
log = logging.getLogger(__name__)

MAX_IMAGES, MAX_LEVELS = 1024, 64
MAX_PROFILE = 16 << 20
"""Bytes of the largest colour profile."""
LARGE_CHUNK_BYTES = 16 << 20
"""Chunks larger than this are decoded one after another."""


def is_zarr(path: Path) -> bool:
    """Tells whether a folder is a Zarr group."""
    return any((path / name).is_file() for name in (".zattrs", ".zgroup", "zarr.json"))


def open_zarr(path: Path, *, unreadable: set[tuple[str, int, int]] | None = None) -> StoredSlide:
    """Opens an OME-Zarr image of three uint8 channels (or one) in one plane.

    Of a folder that holds several images (the layout of bioformats2raw) the largest is taken that
    is no label, macro or thumbnail.

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
    from wsisr.slides.zarr_arrays import open_array

    try:
        images = ome_images(path)
        series, folder = chosen_image(path, images)
        attributes = ome_attributes(folder)
        multiscale = attributes["multiscales"][0]
        axes = axis_names(multiscale, folder)
        order = channel_order(path, attributes)
        names = [str(entry["path"]) for entry in multiscale["datasets"]]
        if not 0 < len(names) <= MAX_LEVELS:
            raise ValueError(f"it has {len(names)} levels")
        levels = [
            ZarrLevel(path, open_array(folder, name), axes, name, unreadable, order)
            for name in names
        ]
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
        icc_profile=fitting_profile(path, _read_inside(path, "OME/profile.icc", MAX_PROFILE)),
        magnification=images[series].magnification if series < len(images) else None,
        properties={"ome-zarr.multiscales": json.dumps(multiscale)},
    )
    return StoredSlide(path, levels, info)


def ome_attributes(folder: Path) -> dict[str, Any]:
    """Gives the attributes of a group; NGFF 0.5 keeps them under a key of their own."""
    from wsisr.slides.zarr_arrays import attributes_of

    attributes = attributes_of(folder)
    inner = attributes.get("ome", attributes)
    if not isinstance(inner, dict):
        return attributes
    return inner if "multiscales" in inner or "multiscales" not in attributes else attributes


def ome_images(path: Path) -> list[OmeImage]:
    """Reads what `OME/METADATA.ome.xml` says of the images, where there is one."""
    data = _read_inside(path, "OME/METADATA.ome.xml", MAX_XML_CHARACTERS)
    return [] if data is None else parse_ome(data.decode("utf-8", "replace"))


def chosen_image(path: Path, images: Sequence[OmeImage]) -> tuple[int, Path]:
    """Finds the image of a Zarr group: itself, or the largest of those that it holds.

    Returns:
        Its number, and its folder.

    Raises:
        SlideError: it holds a plate or a well, which are many images.
    """
    attributes = ome_attributes(path)
    for kind in ("plate", "well"):
        if kind in attributes:
            raise SlideError(
                f"{path} is a {kind} of many images; give the folder of one field, for instance "
                f"{path / ('A/1/0' if kind == 'plate' else '0')}"
            )
    if "multiscales" in attributes:
        return 0, path
    found = list(_held_images(path))
    wanted = [
        entry for entry in found if entry[0] >= len(images) or not images[entry[0]].is_associated
    ]
    if not found:
        raise SlideError(f"{path} is a Zarr folder without an image; give the folder of an image")
    return max(wanted or found, key=lambda entry: math.prod(first_array(entry[1]).shape))


def _held_images(path: Path) -> Iterator[tuple[int, Path]]:
    """Yields number and folder of the images below a group, as `OME` lists them, or by name."""
    from wsisr.slides.zarr_arrays import inside

    ome = inside(path, "OME")
    listed = ome_attributes(ome).get("series") if is_zarr(ome) else None
    names = listed or sorted(
        (each.name for each in path.iterdir() if is_zarr(each)),
        key=lambda name: (len(name), name),
    )
    for number, name in enumerate(names[:MAX_IMAGES]):
        folder = inside(path, str(name))
        if is_zarr(folder) and "multiscales" in ome_attributes(folder):
            yield number, folder


def first_array(folder: Path) -> Any:
    """Opens the array of the finest level of an image."""
    from wsisr.slides.zarr_arrays import open_array

    return open_array(folder, str(ome_attributes(folder)["multiscales"][0]["datasets"][0]["path"]))


def axis_names(multiscale: dict[str, Any], folder: Path) -> list[str]:
    """Gives the names of the axes: objects since NGFF 0.4, texts in 0.3, none before."""
    axes = multiscale.get("axes")
    if axes is None:
        return list(AXES[-len(first_array(folder).shape) :])
    return [str(axis["name"] if isinstance(axis, dict) else axis).lower() for axis in axes]


def channel_order(path: Path, attributes: dict[str, Any]) -> list[int]:
    """Tells which channels are red, green and blue, by their colours where those say it."""
    channels = (attributes.get("omero") or {}).get("channels") or []
    colours = [str(channel.get("color", "")).strip("#").upper()[-6:] for channel in channels]
    if sorted(colours) == sorted(PURE):
        return [colours.index(colour) for colour in PURE]
    if len(set(colours)) == len(PURE):
        log.warning("%s: its channels are not called red, green and blue; taken as such", path)
    return [0, 1, 2]


def pixel_size(path: Path, multiscale: dict[str, Any]) -> float | None:
    """Works out um/px of the first level from the axes' units and all scales; None without.

    Those of the level come first, then those that all levels share (NGFF 0.4, section 3.4).
    """
    changes = [
        *(multiscale["datasets"][0].get("coordinateTransformations") or []),
        *(multiscale.get("coordinateTransformations") or []),
    ]
    scales = [change["scale"] for change in changes if change.get("type") == "scale"]
    sizes: dict[str, float] = {}
    for index, axis in enumerate(multiscale.get("axes") or []):
        unit = MICROMETRES.get(str(axis.get("unit")).lower()) if isinstance(axis, dict) else None
        if unit is not None and scales:
            size = unit * math.prod(float(scale[index]) for scale in scales)
            if math.isfinite(size) and size > 0:
                sizes[str(axis["name"]).lower()] = size
    return mean_mpp(path, sizes.get("x"), sizes.get("y"))


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
        order: list[int],
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
        self._order = order if channels == 3 and order != [0, 1, 2] else None
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
        if self._order is not None:
            pixels = pixels[..., self._order]
        return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))
