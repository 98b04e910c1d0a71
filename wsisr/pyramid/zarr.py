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

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError, UsageError
from wsisr.pyramid.encode import padded
from wsisr.pyramid.levels import EMPTY, TileAddress, TileIndex
from wsisr.pyramid.ngff import BLOSC_LEVEL, is_sharded, shard_tiles, write_metadata
from wsisr.pyramid.records import checksum
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.stores import ChunkStore

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

    def __init__(self, path: Path, store: ChunkStore, spec: PyramidSpec, *, resume: bool) -> None:
        if spec.samples != 3:
            raise UsageError(f"{path}: a map of one channel is written as .ome.tif alone")
        if spec.associated:
            raise UsageError(f"{path}: OME-Zarr takes no label or macro; write an .ome.tif")
        self._store = store
        self._spec = spec
        self._sharded = is_sharded(spec)
        if self._sharded and not store.appends:
            rule = "shards cannot be appended to in object storage; give 0.4, or a path"
            raise OptionError("zarr_version", spec.zarr_version, rule)
        self._ends: dict[str, int] = {}
        grey = len(set(spec.background)) == 1
        self._fill = spec.background[0] if grey else 0
        tile = np.full((spec.tile, spec.tile, 3), np.asarray(spec.background, np.uint8))
        self._blank = b"" if grey else self.encode(tile)
        store.begin(resume=resume)

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encodes a chunk: the tile's planes, grown to the tile size by repeating its edge."""
        return encode_chunk(padded(pixels, self._spec.tile))

    def append(self, address: TileAddress, data: bytes) -> tuple[int, int]:
        """Writes a chunk file, or appends to the shard."""
        name = self._name(address)
        offset = self._ends.get(name, 0) if self._sharded else 0
        self._store.write(name, offset, data, last=not self._sharded)
        if self._sharded:
            self._ends[name] = offset + len(data)
        return offset, len(data)

    def append_blank(self, address: TileAddress) -> tuple[int, int, int]:
        """Leaves the chunk out where the fill value is the background."""
        if not self._blank:
            return 0, 0, 0
        return (*self.append(address, self._blank), checksum(self._blank))

    def read(self, address: TileAddress, offset: int, length: int) -> bytes:
        """Reads the stored bytes of a chunk."""
        return self._store.read(self._name(address), offset, length) if length else b""

    def restore(self, index: TileIndex) -> None:
        """Goes on behind the last kept chunk of each shard; removes all other chunk files."""
        kept: dict[str, int] = {}
        for address, offset, length in _stored(index):
            name = self._name(address)
            kept[name] = max(kept.get(name, 0), offset + length)
        self._store.keep(kept)
        if self._sharded:
            self._ends = kept

    def sync(self) -> None:
        """Has the store hold what was written since the last call."""
        self._store.sync()

    def finish(self, index: TileIndex, provenance: Mapping[str, Any]) -> None:
        """Writes shard indexes and metadata, and makes the output complete."""
        if self._sharded:
            self._write_shard_indexes(index)
        self._store.finish(lambda root: write_metadata(root, self._spec, self._fill, provenance))

    def close(self) -> None:
        """Closes the store."""
        self._store.close()

    def discard(self) -> None:
        """Removes what was written."""
        self._store.discard()

    def _name(self, address: TileAddress) -> str:
        level, row, col = address
        if self._sharded:
            side = shard_tiles(self._spec, level)
            return f"{level}/c/0/0/0/{row // side}/{col // side}"
        return f"{level}/0/0/0/{row}/{col}"

    def _write_shard_indexes(self, index: TileIndex) -> None:
        import google_crc32c

        tables: dict[str, NDArray[np.uint64]] = {}
        for (level, row, col), offset, length in _stored(index):
            side = shard_tiles(self._spec, level)
            table = tables.setdefault(
                self._name((level, row, col)), np.full((side, side, 2), _EMPTY_CHUNK, "<u8")
            )
            table[row % side, col % side] = offset, length
        for name, table in tables.items():
            data = table.tobytes()
            data += int(google_crc32c.value(data)).to_bytes(4, "little")
            self._store.write(name, self._ends[name], data, last=True)


def _stored(index: TileIndex) -> Iterator[tuple[TileAddress, int, int]]:
    """Walks over the address, offset and length of every tile that has bytes."""
    for level, (state, offset, length) in enumerate(
        zip(index.state, index.offset, index.length, strict=True)
    ):
        for row, col in np.argwhere((state != EMPTY) & (length > 0)):
            yield (level, int(row), int(col)), int(offset[row, col]), int(length[row, col])
