"""BigTIFF written by appending: tiles in the order they come, directories last.

The file is a 16-byte header, tile after tile of all levels, then metadata and IFDs; only the
header's pointer to the first IFD is written a second time, as the last act. Until then the file
is called `<OUT>.partial`, and its pointer is zero.

Specifications: TIFF 6.0, TIFF Technical Note 2 (JPEG), BigTIFF (libtiff), OME-TIFF 6 (SubIFDs).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisr.files import AppendFile, commit_file, remove
from wsisr.pyramid.encode import Codec, padded, tiff_codec
from wsisr.pyramid.journal import checksum
from wsisr.pyramid.levels import BLANK, Place, TileIndex
from wsisr.pyramid.metadata import ome_xml
from wsisr.pyramid.spec import PyramidSpec

SOFTWARE = "wsisr"
HEADER = struct.Struct("<2sHHHQ")
ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8, IFD8 = 2, 3, 4, 5, 7, 16, 18
_FORMATS = {ASCII: "s", SHORT: "H", LONG: "I", RATIONAL: "I", UNDEFINED: "s", LONG8: "Q", IFD8: "Q"}

MAIN_IMAGE, REDUCED_IMAGE = 0, 1


@dataclass(frozen=True)
class Tag:
    """One entry of an IFD; `value` is packed little-endian, `count` counts values of `kind`."""

    code: int
    kind: int
    count: int
    value: bytes


def numbers(code: int, kind: int, *values: int) -> Tag:
    """A tag of integers (for RATIONAL: numerators and denominators in turn)."""
    packed = struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
    return Tag(code, kind, len(values) // (2 if kind == RATIONAL else 1), packed)


def text(code: int, value: str) -> Tag:
    """An ASCII tag; OME-XML puts UTF-8 in it."""
    data = value.encode() + b"\0"
    return Tag(code, ASCII, len(data), data)


class TiffSink:
    """OME-TIFF under construction (a `TileSink`). Raises OutputError when the disk refuses."""

    def __init__(
        self, path: Path, partial: Path, spec: PyramidSpec, *, resume: bool = False
    ) -> None:
        self._path = path
        self._spec = spec
        self._codec = tiff_codec(spec)
        self._file = AppendFile(partial, shown=path, size=None if resume else 0)
        self._blank: tuple[int, int, int] | None = None
        if not resume:
            self._file.append(HEADER.pack(b"II", 43, 8, 0, 0))

    def encode(self, pixels: NDArray[np.uint8]) -> bytes:
        """Encode a tile, grown to the tile size by repeating its edge."""
        return self._codec.encode(padded(pixels, self._spec.tile))

    def append(self, place: Place, data: bytes) -> tuple[int, int]:
        """Append an encoded tile."""
        return self._file.append(data), len(data)

    def append_blank(self, place: Place) -> tuple[int, int, int]:
        """Refer to the one background tile, encoded at its first use."""
        if self._blank is None:
            tile = self._spec.tile
            colour = np.asarray(self._spec.background, np.uint8)
            data = self._codec.encode(np.full((tile, tile, len(colour)), colour))
            self._blank = (*self.append(place, data), checksum(data))
        return self._blank

    def read(self, place: Place, offset: int, length: int) -> bytes:
        """The stored bytes of a tile."""
        return self._file.read(offset, length)

    def restore(self, index: TileIndex) -> None:
        """Cut off all behind the last tile, and find the shared background tile."""
        ends = [offset + length for offset, length in zip(index.offset, index.length, strict=True)]
        self._file.cut(max(HEADER.size, *(int(end.max()) for end in ends)))
        self._file.overwrite(0, HEADER.pack(b"II", 43, 8, 0, 0))
        for state, offset, length in zip(index.state, index.offset, index.length, strict=True):
            blank = np.argwhere(state == BLANK)
            if len(blank):
                row, col = blank[0]
                data = self._file.read(int(offset[row, col]), int(length[row, col]))
                self._blank = int(offset[row, col]), len(data), checksum(data)
                return

    def sync(self) -> None:
        """Make durable what was appended so far."""
        self._file.sync()

    def finish(self, index: TileIndex) -> None:
        """Append metadata and IFDs, point the header at the first, rename to the output."""
        first = _write_directories(self._file, self._spec, self._codec, index)
        self._file.overwrite(HEADER.size - 8, struct.pack("<Q", first))
        self._file.sync()
        self._file.close()
        commit_file(self._file.path, self._path)

    def close(self) -> None:
        """Close the partial file and keep it."""
        self._file.close()

    def discard(self) -> None:
        """Remove the partial file."""
        self._file.close()
        remove(self._file.path)


def _write_directories(file: AppendFile, spec: PyramidSpec, codec: Codec, index: TileIndex) -> int:
    """Append all IFDs, from the last to the first so that each can point ahead."""
    hybrid = spec.layout == "hybrid"
    levels = range(1, len(spec.levels))
    level_ifds: list[int] = []
    following = 0
    for level in reversed(levels):
        tags = _level_tags(file, spec, codec, index, level)
        offset = _append_ifd(file, tags, following)
        level_ifds.insert(0, offset)
        following = offset if hybrid else 0
    for image in reversed(list(spec.associated.values())):
        following = _append_ifd(file, _associated_tags(file, image), following)
    main = _level_tags(file, spec, codec, index, 0)
    main.append(text(270, ome_xml(spec)))
    main.append(text(305, SOFTWARE))
    if level_ifds:
        main.append(numbers(330, IFD8, *level_ifds))
    return _append_ifd(file, main, following)


def _level_tags(
    file: AppendFile, spec: PyramidSpec, codec: Codec, index: TileIndex, level: int
) -> list[Tag]:
    width, height = spec.levels[level]
    x, y = spec.resolution(level)
    tiles = index.state[level].size
    tags = [
        *_pixel_tags(width, height, codec, REDUCED_IMAGE if level else MAIN_IMAGE, spec.samples),
        numbers(282, RATIONAL, *x),
        numbers(283, RATIONAL, *y),
        numbers(296, SHORT, 3),
        numbers(322, LONG, spec.tile),
        numbers(323, LONG, spec.tile),
        Tag(324, LONG8, tiles, index.offset[level].astype("<u8").tobytes()),
        Tag(325, LONG, tiles, index.length[level].astype("<u4").tobytes()),
    ]
    if spec.icc_profile:
        tags.append(Tag(34675, UNDEFINED, len(spec.icc_profile), spec.icc_profile))
    return tags


def _associated_tags(file: AppendFile, image: NDArray[np.uint8]) -> list[Tag]:
    """A label or macro: one deflate strip, lossless since labels carry small print."""
    height, width = image.shape[:2]
    data = zlib.compress(image.tobytes(), level=6)
    return [
        *_pixel_tags(width, height, Codec(8, 2, bytes), MAIN_IMAGE),
        numbers(273, LONG8, file.append(data)),
        numbers(278, LONG, height),
        numbers(279, LONG8, len(data)),
    ]


def _pixel_tags(width: int, height: int, codec: Codec, subfile: int, samples: int = 3) -> list[Tag]:
    tags = [
        numbers(254, LONG, subfile),
        numbers(256, LONG, width),
        numbers(257, LONG, height),
        numbers(258, SHORT, *(8,) * samples),
        numbers(259, SHORT, codec.compression),
        numbers(262, SHORT, codec.photometric),
        numbers(277, SHORT, samples),
        numbers(284, SHORT, 1),
    ]
    if codec.predictor != 1:
        tags.append(numbers(317, SHORT, codec.predictor))
    if codec.subsampling:
        tags.append(numbers(530, SHORT, *codec.subsampling))
        # full range, as JFIF has it: the range that JPEG encoders write and TIFF leaves open
        tags.append(numbers(532, RATIONAL, 0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1))
    return tags


def _append_ifd(file: AppendFile, tags: Sequence[Tag], following: int) -> int:
    """Append the values that do not fit into their entries, then the IFD; its offset."""
    entries = []
    for tag in sorted(tags, key=lambda tag: tag.code):
        value = tag.value
        if len(value) > 8:
            value = struct.pack("<Q", file.append(value, align=8))
        entries.append(struct.pack("<HHQ", tag.code, tag.kind, tag.count) + value.ljust(8, b"\0"))
    body = struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", following)
    return file.append(body, align=8)
