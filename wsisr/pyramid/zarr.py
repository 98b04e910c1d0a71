"""OME-Zarr: NGFF 0.4 on Zarr 2, one file a chunk, and 0.5 on Zarr 3, chunks gathered in shards.

A chunk holds one tile of all three channels, (1, 3, 1, tile, tile) along t, c, z, y, x, blosc-zstd
compressed; a tile of the writer is a whole chunk, so that a chunk has one writer. Tiles of grey
background are left out where the fill value says the same. zarr-python writes the metadata, as the
last act; the chunks are written here, since a shard given to zarr-python must be whole in memory:
here tiles are appended to their shard as they come, as the sharding codec allows, and `finish()`
adds the shard's index.

Specifications: NGFF 0.4 and 0.5 (ngff.openmicroscopy.org), Zarr 2, Zarr 3 `sharding_indexed` 1.0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError
from wsisr.files import os_errors, remove, sync_folder
from wsisr.pyramid.encode import padded
from wsisr.pyramid.journal import checksum
from wsisr.pyramid.levels import EMPTY, Place, TileIndex
from wsisr.pyramid.metadata import ome_xml
from wsisr.pyramid.spec import PyramidSpec

ICC_PROFILE = Path("OME") / "profile.icc"
"""NGFF has no place for a colour profile; beside the OME-XML it harms nobody, and is not lost."""
AXES = (
    {"name": "t", "type": "time"},
    {"name": "c", "type": "channel"},
    {"name": "z", "type": "space", "unit": "micrometer"},
    {"name": "y", "type": "space", "unit": "micrometer"},
    {"name": "x", "type": "space", "unit": "micrometer"},
)
CHANNELS = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))
BLOSC_LEVEL = 3
SHARD_TILES = 8
"""A shard is at most this many tiles high and wide: 4096 px of 512."""

_EMPTY_CHUNK = 2**64 - 1


class ZarrSink:
    """OME-Zarr under construction (a `TileSink`). Raises OutputError when the disk refuses."""

    def __init__(self, path: Path, partial: Path, spec: PyramidSpec, *, resume: bool) -> None:
        _zarr()
        if spec.samples != 3:
            raise UsageError(f"{path}: a map of one channel is written as .ome.tif alone")
        if spec.associated:
            raise UsageError(f"{path}: OME-Zarr takes no label or macro; write an .ome.tif")
        self._path = path
        self._partial = partial
        self._spec = spec
        self._sharded = spec.zarr_version == "0.5"
        self._ends: dict[Path, int] = {}
        self._touched: set[Path] = set()
        self._touched_lock = Lock()
        self._folders: set[Path] = set()
        grey = len(set(spec.background)) == 1
        self._fill = spec.background[0] if grey else 0
        tile = np.full((spec.tile, spec.tile, 3), np.asarray(spec.background, np.uint8))
        self._blank = b"" if grey else self.encode(tile)
        with os_errors(path):
            partial.mkdir(exist_ok=resume)

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """A chunk: the tile's planes, grown to the tile size by repeating its edge."""
        tile = self._spec.tile
        planes = np.empty((3, tile, tile), np.uint8)
        cv2.split(padded(pixels, tile), list(planes))
        codec: Any = imagecodecs
        data: bytes = codec.blosc_encode(
            planes,
            level=BLOSC_LEVEL,
            compressor="zstd",
            shuffle="bitshuffle",
            typesize=1,
            numthreads=1,
        )
        return data

    def append(self, place: Place, data: bytes) -> tuple[int, int]:
        """Write a chunk file, or append to the shard."""
        path = self._file(place)
        folder = path.parent
        offset = self._ends.get(path, 0) if self._sharded else 0
        with os_errors(self._path):
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                _write(fd, data, offset)
                if not self._sharded:
                    os.ftruncate(fd, len(data))
            finally:
                os.close(fd)
        if self._sharded:
            self._ends[path] = offset + len(data)
        with self._touched_lock:
            self._touched.add(path)
        return offset, len(data)

    def append_blank(self, place: Place) -> tuple[int, int, int]:
        """Leave the chunk out where the fill value is the background."""
        if not self._blank:
            return 0, 0, 0
        return (*self.append(place, self._blank), checksum(self._blank))

    def read(self, place: Place, offset: int, length: int) -> bytes:
        """The stored bytes of a chunk."""
        if length == 0:
            return b""
        with os_errors(self._path), self._file(place).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def restore(self, index: TileIndex) -> None:
        """Go on behind the last kept chunk of each shard; other chunk files are removed."""
        kept: dict[Path, int] = {}
        for place, offset, length in _stored(index):
            path = self._file(place)
            kept[path] = max(kept.get(path, 0), offset + length)
        for path in sorted(self._partial.rglob("*")):
            if not path.is_dir() and path not in kept:
                remove(path)
        if self._sharded:
            for path, end in kept.items():
                with os_errors(self._path):
                    os.truncate(path, end)
            self._ends = kept

    def sync(self) -> None:
        """Make durable the files written since the last call."""
        with self._touched_lock:
            touched, self._touched = self._touched, set()
        for path in touched:
            with os_errors(self._path):
                fd = os.open(path, os.O_WRONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def finish(self, index: TileIndex) -> None:
        """Write shard indexes and metadata, then rename the folder to the output."""
        if self._sharded:
            self._write_shard_indexes(index)
        with os_errors(self._path):
            _write_metadata(self._partial, self._spec, self._fill)
            xml = self._partial / "OME" / "METADATA.ome.xml"
            xml.write_text(ome_xml(self._spec, tiff=False), encoding="utf-8")
            if self._spec.icc_profile:
                (self._partial / ICC_PROFILE).write_bytes(self._spec.icc_profile)
            self._touched.update(p for p in self._partial.rglob("*") if _is_metadata(p))
        self.sync()
        with os_errors(self._path):
            replaced = self._path.with_name(self._path.name + ".replaced")
            if self._path.exists():
                remove(replaced)
                self._path.rename(replaced)
            self._partial.rename(self._path)
            sync_folder(self._path.parent)
            remove(replaced)

    def close(self) -> None:
        """Nothing stays open between calls."""

    def discard(self) -> None:
        """Remove the partial folder."""
        remove(self._partial)

    def _file(self, place: Place) -> Path:
        level, row, col = place
        if self._sharded:
            side = shard_tiles(self._spec, level)
            return self._partial.joinpath(
                str(level), "c", "0", "0", "0", str(row // side), str(col // side)
            )
        return self._partial.joinpath(str(level), "0", "0", "0", str(row), str(col))

    def _write_shard_indexes(self, index: TileIndex) -> None:
        tables: dict[Path, NDArray[np.uint64]] = {}
        for place, offset, length in _stored(index):
            side = shard_tiles(self._spec, place[0])
            table = tables.setdefault(
                self._file(place), np.full((side, side, 2), _EMPTY_CHUNK, "<u8")
            )
            table[place[1] % side, place[2] % side] = offset, length
        import google_crc32c

        for path, table in tables.items():
            data = table.tobytes()
            data += int(google_crc32c.value(data)).to_bytes(4, "little")
            with os_errors(self._path):
                fd = os.open(path, os.O_WRONLY)
                try:
                    _write(fd, data, self._ends[path])
                    os.ftruncate(fd, self._ends[path] + len(data))
                finally:
                    os.close(fd)
            self._touched.add(path)


def shard_tiles(spec: PyramidSpec, level: int) -> int:
    """Tiles along a side of a shard, no more than the level has."""
    return min(SHARD_TILES, max(spec.grid(level)))


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _stored(index: TileIndex) -> Iterator[tuple[Place, int, int]]:
    """Place, offset and length of every tile that has bytes."""
    for level, (state, offset, length) in enumerate(
        zip(index.state, index.offset, index.length, strict=True)
    ):
        for row, col in np.argwhere((state != EMPTY) & (length > 0)):
            yield (level, int(row), int(col)), int(offset[row, col]), int(length[row, col])


def _is_metadata(path: Path) -> bool:
    names = (".zgroup", ".zattrs", ".zarray", "zarr.json", "METADATA.ome.xml", "profile.icc")
    return path.name in names


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise UsageError("OME-Zarr needs zarr-python: pip install 'wsisr[zarr]'") from error
    return zarr


def _write_metadata(root: Path, spec: PyramidSpec, fill: int) -> None:
    zarr = _zarr()
    sharded = spec.zarr_version == "0.5"
    group = zarr.open_group(root, mode="a", zarr_format=3 if sharded else 2)
    for level, (width, height) in enumerate(spec.levels):
        chunk = (1, 3, 1, spec.tile, spec.tile)
        side = shard_tiles(spec, level) * spec.tile
        common = {
            "shape": (1, 3, 1, height, width),
            "dtype": "uint8",
            "chunks": chunk,
            "fill_value": fill,
        }
        if sharded:
            group.create_array(
                str(level),
                **common,
                shards=(1, 3, 1, side, side),
                dimension_names=[axis["name"] for axis in AXES],
                compressors=zarr.codecs.BloscCodec(
                    typesize=1, cname="zstd", clevel=BLOSC_LEVEL, shuffle="bitshuffle"
                ),
            )
        else:
            import numcodecs

            group.create_array(
                str(level),
                **common,
                chunk_key_encoding={"name": "v2", "separator": "/"},
                compressors=numcodecs.Blosc("zstd", BLOSC_LEVEL, numcodecs.Blosc.BITSHUFFLE),
                filters=None,
            )
    group.create_group("OME")
    group.attrs.update(ngff_attributes(spec))


def ngff_attributes(spec: PyramidSpec) -> dict[str, Any]:
    """The root group's attributes of the NGFF version that `spec` asks for."""
    version = spec.zarr_version
    datasets = []
    for level, size in enumerate(spec.levels):
        x, y = (full / own * spec.mpp for full, own in zip(spec.levels[0], size, strict=True))
        # pixel centres: the first pixel of a level lies half a step further in than level 0's
        shift = [0.0, 0.0, 0.0, (y - spec.mpp) / 2, (x - spec.mpp) / 2]
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, 1.0, 1.0, y, x]}]
        if level:
            transforms.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    name = spec.name or "pyramid"
    multiscale: dict[str, Any] = {
        "name": name,
        "axes": list(AXES),
        "datasets": datasets,
        "type": "mean",
    }
    omero = {
        "name": name,
        "channels": [
            {
                "label": label,
                "color": colour,
                "active": True,
                "coefficient": 1,
                "family": "linear",
                "inverted": False,
                "window": {"start": 0, "end": 255, "min": 0, "max": 255},
            }
            for label, colour in CHANNELS
        ],
        "rdefs": {"model": "color", "defaultT": 0, "defaultZ": 0},
    }
    provenance = json.loads(json.dumps(dict(spec.provenance), default=str))
    if version == "0.5":
        ome = {"version": "0.5", "multiscales": [multiscale], "omero": omero}
        return {"ome": ome, "wsisr": provenance}
    multiscale["version"] = omero["version"] = "0.4"
    return {"multiscales": [multiscale], "omero": omero, "wsisr": provenance}
