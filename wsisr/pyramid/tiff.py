"""Writes BigTIFF by appending: tiles in the order they come, directories last.

The file is a 16-byte header, tile after tile of all levels, then metadata and IFDs; only the
header's pointer to the first IFD is written a second time, as the last act. Until then the file
is called `<OUT>.partial`, and its pointer is zero.

References:
    TIFF 6.0; TIFF Technical Note 2 (JPEG); BigTIFF (libtiff); OME-TIFF 6 (SubIFDs).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.files import AppendFile, commit_file, remove
from wsisr.formats import (
    Codec,
    FieldType,
    Photometric,
    PlanarConfiguration,
    Predictor,
    ResolutionUnit,
    SubfileType,
    TagId,
)
from wsisr.pyramid.encode import TileCodec, padded, tiff_codec
from wsisr.pyramid.levels import BLANK, TileAddress, TileIndex
from wsisr.pyramid.metadata import ome_xml
from wsisr.pyramid.records import checksum
from wsisr.pyramid.spec import PyramidSpec

SOFTWARE = "wsisr"
HEADER = struct.Struct("<2sHHHQ")
UNFINISHED = HEADER.pack(b"II", 43, 8, 0, 0)
_FORMATS = {
    FieldType.ASCII: "s",
    FieldType.SHORT: "H",
    FieldType.LONG: "I",
    FieldType.RATIONAL: "I",
    FieldType.UNDEFINED: "s",
    FieldType.LONG8: "Q",
    FieldType.IFD8: "Q",
}


@dataclass(frozen=True)
class Tag:
    """One entry of an IFD.

    Attributes:
        code: which tag it is.
        kind: type of its values.
        count: how many values it has.
        value: the values, packed little-endian.
    """

    code: TagId
    kind: FieldType
    count: int
    value: bytes


def integers(code: TagId, kind: FieldType, *values: int) -> Tag:
    """Makes a tag of integers (for RATIONAL: numerators and denominators in turn)."""
    packed = struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
    return Tag(code, kind, len(values) // (2 if kind is FieldType.RATIONAL else 1), packed)


def text(code: TagId, value: str) -> Tag:
    """Makes an ASCII tag; OME-XML puts UTF-8 in it."""
    data = value.encode() + b"\0"
    return Tag(code, FieldType.ASCII, len(data), data)


class TiffSink:
    """An OME-TIFF under construction (a `TileSink`)."""

    def __init__(self, path: Path, partial: Path, spec: PyramidSpec, *, resume: bool) -> None:
        self._path = path
        self._spec = spec
        self._codec = tiff_codec(spec)
        self._file = AppendFile(partial, shown=path, size=None if resume else 0)
        self._blank: tuple[int, int, int] | None = None
        if not resume:
            self._file.append(UNFINISHED)

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encodes a tile, grown to the tile size by repeating its edge."""
        return self._codec.encode(padded(pixels, self._spec.tile))

    def append(self, address: TileAddress, data: bytes) -> tuple[int, int]:
        """Appends an encoded tile."""
        return self._file.append(data), len(data)

    def append_blank(self, address: TileAddress) -> tuple[int, int, int]:
        """Refers to the one background tile, which is encoded at its first use."""
        if self._blank is None:
            tile = self._spec.tile
            colour = np.asarray(self._spec.background, np.uint8)
            data = self._codec.encode(np.full((tile, tile, len(colour)), colour))
            self._blank = (*self.append(address, data), checksum(data))
        return self._blank

    def read(self, address: TileAddress, offset: int, length: int) -> bytes:
        """Reads the stored bytes of a tile."""
        return self._file.read(offset, length)

    def restore(self, index: TileIndex) -> None:
        """Cuts off all behind the last tile, and finds the shared background tile."""
        ends = [offset + length for offset, length in zip(index.offset, index.length, strict=True)]
        self._file.cut(max(HEADER.size, *(int(end.max()) for end in ends)))
        self._file.overwrite(0, UNFINISHED)
        for state, offset, length in zip(index.state, index.offset, index.length, strict=True):
            blank = np.argwhere(state == BLANK)
            if len(blank):
                row, col = blank[0]
                data = self._file.read(int(offset[row, col]), int(length[row, col]))
                self._blank = int(offset[row, col]), len(data), checksum(data)
                return

    def sync(self) -> None:
        """Has the disk hold what was appended so far."""
        self._file.sync()

    def finish(self, index: TileIndex, provenance: Mapping[str, Any]) -> None:
        """Appends metadata and IFDs, points the header at the first, renames to the output."""
        xml = ome_xml(self._spec, provenance)
        first = _write_directories(self._file, self._spec, self._codec, index, xml)
        self._file.overwrite(HEADER.size - 8, struct.pack("<Q", first))
        self._file.sync()
        self._file.close()
        commit_file(self._file.path, self._path)

    def close(self) -> None:
        """Closes the partial file and keeps it."""
        self._file.close()

    def discard(self) -> None:
        """Removes the partial file."""
        self._file.close()
        remove(self._file.path)


def _write_directories(
    file: AppendFile, spec: PyramidSpec, codec: TileCodec, index: TileIndex, xml: str
) -> int:
    """Appends all IFDs, from the last to the first so that each can point ahead."""
    hybrid = spec.layout == "hybrid"
    level_ifds: list[int] = []
    following = 0
    for level in reversed(range(1, len(spec.levels))):
        tags = _level_tags(spec, codec, index, level)
        offset = _append_ifd(file, tags, following)
        level_ifds.insert(0, offset)
        following = offset if hybrid else 0
    for image in reversed(list(spec.associated.values())):
        following = _append_ifd(file, _associated_tags(file, image), following)
    main = _level_tags(spec, codec, index, 0)
    main.append(text(TagId.IMAGE_DESCRIPTION, xml))
    main.append(text(TagId.SOFTWARE, SOFTWARE))
    if level_ifds:
        main.append(integers(TagId.SUB_IFDS, FieldType.IFD8, *level_ifds))
    return _append_ifd(file, main, following)


def _level_tags(spec: PyramidSpec, codec: TileCodec, index: TileIndex, level: int) -> list[Tag]:
    width, height = spec.levels[level]
    x, y = spec.resolution(level)
    tiles = index.state[level].size
    offsets = index.offset[level].astype("<u8").tobytes()
    lengths = index.length[level].astype("<u4").tobytes()
    subfile = SubfileType.REDUCED_IMAGE if level else SubfileType.MAIN_IMAGE
    tags = [
        *_pixel_tags(width, height, codec, subfile, spec.samples),
        integers(TagId.X_RESOLUTION, FieldType.RATIONAL, *x),
        integers(TagId.Y_RESOLUTION, FieldType.RATIONAL, *y),
        integers(TagId.RESOLUTION_UNIT, FieldType.SHORT, ResolutionUnit.CENTIMETRE),
        integers(TagId.TILE_WIDTH, FieldType.LONG, spec.tile),
        integers(TagId.TILE_LENGTH, FieldType.LONG, spec.tile),
        Tag(TagId.TILE_OFFSETS, FieldType.LONG8, tiles, offsets),
        Tag(TagId.TILE_BYTE_COUNTS, FieldType.LONG, tiles, lengths),
    ]
    if spec.icc_profile:
        profile = spec.icc_profile
        tags.append(Tag(TagId.ICC_PROFILE, FieldType.UNDEFINED, len(profile), profile))
    return tags


def _associated_tags(file: AppendFile, image: NDArray[np.uint8]) -> list[Tag]:
    """Appends a label or macro: one deflate strip, lossless since labels carry small print."""
    height, width = image.shape[:2]
    data = zlib.compress(image.tobytes(), level=6)
    codec = TileCodec(Codec.DEFLATE, Photometric.RGB, bytes)
    return [
        *_pixel_tags(width, height, codec, SubfileType.MAIN_IMAGE),
        integers(TagId.STRIP_OFFSETS, FieldType.LONG8, file.append(data)),
        integers(TagId.ROWS_PER_STRIP, FieldType.LONG, height),
        integers(TagId.STRIP_BYTE_COUNTS, FieldType.LONG8, len(data)),
    ]


def _pixel_tags(
    width: int, height: int, codec: TileCodec, subfile: SubfileType, samples: int = 3
) -> list[Tag]:
    tags = [
        integers(TagId.NEW_SUBFILE_TYPE, FieldType.LONG, subfile),
        integers(TagId.IMAGE_WIDTH, FieldType.LONG, width),
        integers(TagId.IMAGE_LENGTH, FieldType.LONG, height),
        integers(TagId.BITS_PER_SAMPLE, FieldType.SHORT, *(8,) * samples),
        integers(TagId.COMPRESSION, FieldType.SHORT, codec.compression),
        integers(TagId.PHOTOMETRIC, FieldType.SHORT, codec.photometric),
        integers(TagId.SAMPLES_PER_PIXEL, FieldType.SHORT, samples),
        integers(TagId.PLANAR_CONFIGURATION, FieldType.SHORT, PlanarConfiguration.INTERLEAVED),
    ]
    if codec.predictor is not Predictor.NONE:
        tags.append(integers(TagId.PREDICTOR, FieldType.SHORT, codec.predictor))
    if codec.subsampling:
        tags.append(integers(TagId.YCBCR_SUBSAMPLING, FieldType.SHORT, *codec.subsampling))
        # full range, as JFIF has it: the range that JPEG encoders write and TIFF leaves open
        full = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)
        tags.append(integers(TagId.REFERENCE_BLACK_WHITE, FieldType.RATIONAL, *full))
    return tags


def _append_ifd(file: AppendFile, tags: Sequence[Tag], following: int) -> int:
    """Appends the values that do not fit into their entries, then the IFD; gives its offset."""
    entries = []
    for tag in sorted(tags, key=lambda tag: tag.code):
        value = tag.value
        if len(value) > 8:
            value = struct.pack("<Q", file.append(value, align=8))
        entries.append(struct.pack("<HHQ", tag.code, tag.kind, tag.count) + value.ljust(8, b"\0"))
    body = struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", following)
    return file.append(body, align=8)
