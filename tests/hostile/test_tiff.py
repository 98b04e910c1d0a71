"""TIFF files that are made to do harm."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import pytest

from tests.hostile.support import refusal_of
from wsisr.errors import UsageError
from wsisr.formats import Codec
from wsisr.slides import open_slide


def tiff(path: Path, tags: Mapping[int, tuple[int, int, int]], data: bytes = b"") -> Path:
    """Writes one directory of tags (type, count, value); data begin at byte 8."""
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory)
    return path


def tiled(side: int, tile: int, codec: int, length: int) -> dict[int, tuple[int, int, int]]:
    return {
        256: (4, 1, side), 257: (4, 1, side), 258: (3, 1, 8), 259: (3, 1, codec), 262: (3, 1, 1),
        277: (3, 1, 1), 322: (4, 1, tile), 323: (4, 1, tile), 324: (4, 1, 8), 325: (4, 1, length),
    }  # fmt: skip


def read(path: Path) -> None:
    with open_slide(path) as slide:
        slide.read(0, 0, 0, 256, 256)


@pytest.mark.parametrize("tile", [4096, 6144, 16384, 65520])
@pytest.mark.parametrize("codec", [Codec.DEFLATE, Codec.ZSTD, Codec.LZW, Codec.PACKBITS])
def test_tiles_that_are_bombs(tmp_path: Path, codec: Codec, tile: int) -> None:
    zeros = bytes(1 << 20)
    library: object = imagecodecs
    name = {Codec.DEFLATE: "zlib", Codec.ZSTD: "zstd", Codec.LZW: "lzw"}.get(codec, "packbits")
    data = bytes(getattr(library, f"{name}_encode")(zeros))
    path = tiff(tmp_path / "a.tif", tiled(tile, tile, codec, len(data)), data)

    def read_all() -> None:
        read(path)
        raise UsageError("a.tif was read")

    assert "a.tif" in refusal_of(read_all)


HUGE = 2**32 - 1
CHANGES: list[dict[int, tuple[int, int, int]]] = [
    {256: (4, 1, HUGE), 257: (4, 1, HUGE)},
    {256: (4, 1, 2**31 - 1), 257: (4, 1, 2**31 - 1), 322: (4, 1, 1), 323: (4, 1, 1)},
    {322: (4, 1, HUGE)},
    {322: (4, 1, 0)},
    {277: (3, 1, 65535)},
    {324: (4, HUGE, 8)},
    {325: (16, 2**29, 8)},
    {270: (2, HUGE, 8)},
    {330: (4, HUGE, 8)},
    {330: (4, 1, 8)},
    {258: (3, HUGE, 8)},
    {34675: (7, HUGE, 8), 256: (4, 1, 0)},
    {282: (5, HUGE, 8), 256: (4, 1, 0)},
    {325: (4, 1, HUGE)},
    {324: (4, 1, HUGE)},
]


@pytest.mark.parametrize("changes", CHANGES, ids=range(len(CHANGES)))
def test_tags_of_absurd_sizes(tmp_path: Path, changes: dict[int, tuple[int, int, int]]) -> None:
    tags = tiled(512, 512, Codec.NONE, 512 * 512) | changes
    path = tiff(tmp_path / "a.tif", tags, bytes(512 * 512))

    def read_all() -> None:
        read(path)
        raise UsageError("a.tif was read")

    assert "a.tif" in refusal_of(read_all)


def test_a_sparse_file_claims_values_without_end(tmp_path: Path) -> None:
    tags = tiled(512, 512, Codec.NONE, 9) | {325: (4, 2**30, 8), 324: (4, 2**30, 8)}
    path = tiff(tmp_path / "a.tif", tags, bytes(64))
    with path.open("r+b") as file:
        file.truncate(1 << 34)
    assert "a.tif" in refusal_of(lambda: read(path))


XML = [
    "<OME>" + "<Image/>" * 3_000_000 + "</OME>",
    "<OME>" + "<Image>" * 1_000_000,
    "<!DOCTYPE a [<!ENTITY b 'c'>]><OME>&b;</OME>",
    "<OME " + " ".join(f"a{i}='1'" for i in range(1_000_000)) + "/>",
]


@pytest.mark.parametrize("text", XML, ids=range(len(XML)))
def test_descriptions_that_are_bombs(tmp_path: Path, text: str) -> None:
    pixels = bytes(512 * 512)
    data = pixels + text.encode()
    tags = tiled(512, 512, Codec.NONE, len(pixels)) | {270: (2, len(text), 8 + len(pixels))}
    path = tiff(tmp_path / "a.tif", tags, data)

    def read_all() -> None:
        read(path)
        raise UsageError("a.tif was read")

    assert "a.tif" in refusal_of(read_all)


def test_a_description_of_countless_fields(tmp_path: Path) -> None:
    text = "Aperio " + "|a=" * 10_000_000
    pixels = bytes(512 * 512)
    tags = tiled(512, 512, Codec.NONE, len(pixels)) | {270: (2, len(text), 8 + len(pixels))}
    path = tiff(tmp_path / "a.tif", tags, pixels + text.encode())

    def read_all() -> None:
        read(path)
        raise UsageError("a.tif was read")

    assert "a.tif" in refusal_of(read_all)
