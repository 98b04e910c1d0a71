"""Writes OME-Zarr: NGFF 0.4 with a file a chunk, and 0.5 with chunks gathered in shards.

A chunk holds one tile of all three channels, (1, 3, 1, tile, tile) along t, c, z, y, x, blosc-zstd
compressed; a tile of the writer is a whole chunk, so that a chunk has one writer. Tiles of grey
background are left out where the fill value says the same. zarr-python writes the metadata, as the
last act; the chunks are written here, since a shard given to zarr-python must be whole in memory:
here tiles are appended to their shard as they come, as the sharding codec allows, and `finish()`
adds the shard's index.

References:
    NGFF 0.4 and 0.5 (ngff.openmicroscopy.org); Zarr 2; Zarr 3, `sharding_indexed` 1.0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError
from wsisr.files import os_errors, remove, sync_file, sync_folder, write_part
from wsisr.pyramid.encode import padded
from wsisr.pyramid.levels import EMPTY, TileAddress, TileIndex
from wsisr.pyramid.ngff import BLOSC_LEVEL, is_sharded, shard_tiles, write_metadata
from wsisr.pyramid.records import checksum
from wsisr.pyramid.spec import PyramidSpec

_EMPTY_CHUNK = 2**64 - 1


def encode_chunk(pixels: NDArray[np.uint8]) -> bytes:
    """Encodes uint8 (rows, columns, 3) as a chunk, plane by plane."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
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


class ZarrSink:
    """An OME-Zarr under construction (a `TileSink`)."""

    def __init__(self, path: Path, partial: Path, spec: PyramidSpec, *, resume: bool) -> None:
        if spec.samples != 3:
            raise UsageError(f"{path}: a map of one channel is written as .ome.tif alone")
        if spec.associated:
            raise UsageError(f"{path}: OME-Zarr takes no label or macro; write an .ome.tif")
        self._path = path
        self._partial = partial
        self._spec = spec
        self._sharded = is_sharded(spec)
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
        """Encodes a chunk: the tile's planes, grown to the tile size by repeating its edge."""
        return encode_chunk(padded(pixels, self._spec.tile))

    def append(self, address: TileAddress, data: bytes) -> tuple[int, int]:
        """Writes a chunk file, or appends to the shard."""
        path = self._file(address)
        folder = path.parent
        offset = self._ends.get(path, 0) if self._sharded else 0
        with os_errors(self._path):
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            write_part(path, offset, data, last=not self._sharded)
        if self._sharded:
            self._ends[path] = offset + len(data)
        with self._touched_lock:
            self._touched.add(path)
        return offset, len(data)

    def append_blank(self, address: TileAddress) -> tuple[int, int, int]:
        """Leaves the chunk out where the fill value is the background."""
        if not self._blank:
            return 0, 0, 0
        return (*self.append(address, self._blank), checksum(self._blank))

    def read(self, address: TileAddress, offset: int, length: int) -> bytes:
        """Reads the stored bytes of a chunk."""
        if length == 0:
            return b""
        with os_errors(self._path), self._file(address).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def restore(self, index: TileIndex) -> None:
        """Goes on behind the last kept chunk of each shard; removes all other chunk files."""
        kept: dict[Path, int] = {}
        for address, offset, length in _stored(index):
            path = self._file(address)
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
        """Has the disk hold the files written since the last call."""
        with self._touched_lock:
            touched, self._touched = self._touched, set()
        for path in touched:
            with os_errors(self._path):
                sync_file(path)

    def finish(self, index: TileIndex, provenance: Mapping[str, Any]) -> None:
        """Writes shard indexes and metadata, then renames the folder to the output."""
        if self._sharded:
            self._write_shard_indexes(index)
        with os_errors(self._path):
            self._touched.update(write_metadata(self._partial, self._spec, self._fill, provenance))
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
        """Has nothing to close: no file stays open between calls."""

    def discard(self) -> None:
        """Removes the partial folder."""
        remove(self._partial)

    def _file(self, address: TileAddress) -> Path:
        level, row, col = address
        if self._sharded:
            side = shard_tiles(self._spec, level)
            return self._partial.joinpath(
                str(level), "c", "0", "0", "0", str(row // side), str(col // side)
            )
        return self._partial.joinpath(str(level), "0", "0", "0", str(row), str(col))

    def _write_shard_indexes(self, index: TileIndex) -> None:
        import google_crc32c

        tables: dict[Path, NDArray[np.uint64]] = {}
        for (level, row, col), offset, length in _stored(index):
            side = shard_tiles(self._spec, level)
            table = tables.setdefault(
                self._file((level, row, col)), np.full((side, side, 2), _EMPTY_CHUNK, "<u8")
            )
            table[row % side, col % side] = offset, length
        for path, table in tables.items():
            data = table.tobytes()
            data += int(google_crc32c.value(data)).to_bytes(4, "little")
            with os_errors(self._path):
                write_part(path, self._ends[path], data, last=True)
            self._touched.add(path)


def _stored(index: TileIndex) -> Iterator[tuple[TileAddress, int, int]]:
    """Walks over the address, offset and length of every tile that has bytes."""
    for level, (state, offset, length) in enumerate(
        zip(index.state, index.offset, index.length, strict=True)
    ):
        for row, col in np.argwhere((state != EMPTY) & (length > 0)):
            yield (level, int(row), int(col)), int(offset[row, col]), int(length[row, col])
