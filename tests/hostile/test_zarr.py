"""OME-Zarr folders that are made to do harm."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from tests.hostile.support import refusal_of
from wsisr.engine import Job, prepare
from wsisr.errors import SlideError
from wsisr.slides import open_slide

CHUNK = 256


def attributes(axes: str = "cyx") -> dict[str, Any]:
    multiscale = {
        "axes": [
            {"name": axis, **({} if axis == "c" else {"unit": "micrometer"})} for axis in axes
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.5, 0.5]}],
            }
        ],
    }
    return {"multiscales": [multiscale]}


def zarr2(root: Path, chunk: bytes, **changes: Any) -> Path:
    """Writes an image of one chunk."""
    (root / "0").mkdir(parents=True)
    (root / ".zgroup").write_text('{"zarr_format": 2}')
    (root / ".zattrs").write_text(json.dumps(attributes()))
    described = {
        "zarr_format": 2,
        "shape": [3, CHUNK, CHUNK],
        "chunks": [3, CHUNK, CHUNK],
        "dtype": "|u1",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    (root / "0" / ".zarray").write_text(json.dumps(described | changes))
    (root / "0" / "0.0.0").write_bytes(chunk)
    return root


def zarr3(root: Path, chunk: bytes, codecs: list[Any], **changes: Any) -> Path:
    """Writes an image of one chunk."""
    (root / "0" / "c" / "0" / "0").mkdir(parents=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": attributes()}}
    (root / "zarr.json").write_text(json.dumps(group))
    described = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, CHUNK, CHUNK],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, CHUNK, CHUNK]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }
    (root / "0" / "zarr.json").write_text(json.dumps(described | changes))
    (root / "0" / "c" / "0" / "0" / "0").write_bytes(chunk)
    return root


def read(path: Path) -> None:
    with open_slide(path) as slide:
        slide.read(0, 0, 0, slide.width, slide.height)


class Payload:
    """Makes a file where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("place", ["compressor", "filter"])
@pytest.mark.parametrize("codec", ["pickle", "json2", "msgpack2", "categorize", "no_such_codec"])
def test_codecs_are_those_of_a_list(tmp_path: Path, place: str, codec: str) -> None:
    ran = tmp_path / "ran"
    named = {"id": codec, "protocol": 4} if codec == "pickle" else {"id": codec}
    changes = {"compressor": named} if place == "compressor" else {"filters": [named]}
    path = zarr2(tmp_path / "a.zarr", pickle.dumps(Payload(ran)), **changes)
    with pytest.raises(SlideError, match=rf"a\.zarr: level 0 is coded by '{codec}'") as refused:
        read(path)
    assert not ran.exists()
    assert "store it again" in str(refused.value)


@pytest.mark.parametrize(
    "codec", ["numcodecs.pickle", "vlen-bytes", "vlen-utf8", "no.such", "packbits"]
)
def test_codecs_of_zarr_3_are_those_of_a_list(tmp_path: Path, codec: str) -> None:
    for inner in (False, True):
        codecs: list[Any] = [{"name": codec, "configuration": {}}]
        if inner:
            options = {"chunk_shape": [3, 64, 64], "codecs": codecs, "index_codecs": ["bytes"]}
            codecs = [{"name": "sharding_indexed", "configuration": options}]
        path = zarr3(tmp_path / f"{inner}.zarr", b"", codecs)
        with pytest.raises(SlideError, match=f"is coded by '{codec}'"):
            read(path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    path = zarr2(tmp_path / "a.zarr", pickle.dumps(Payload(tmp_path / "ran")), dtype="|O")
    with pytest.raises(SlideError, match=r"a\.zarr"):
        read(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("codec", ["zlib", "gzip", "bz2", "zstd", "lz4", "blosc"])
def test_the_codecs_of_the_list_are_decoded(tmp_path: Path, codec: str) -> None:
    numcodecs = pytest.importorskip("numcodecs")
    pixels = np.random.default_rng(1).integers(0, 50, (3, CHUNK, CHUNK), np.uint8)
    made = numcodecs.get_codec({"id": codec})
    two = zarr2(tmp_path / "2.zarr", made.encode(pixels), compressor=made.get_config())
    with open_slide(two) as slide:
        found = slide.read(0, 0, 0, CHUNK, CHUNK)
    np.testing.assert_array_equal(found, pixels.transpose(1, 2, 0))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
def test_the_codecs_of_zarr_3_are_decoded_in_shards_too(tmp_path: Path, codec: str) -> None:
    import zarr

    pixels = np.random.default_rng(1).integers(0, 50, (3, CHUNK, CHUNK), np.uint8)
    kinds = {"gzip": zarr.codecs.GzipCodec, "zstd": zarr.codecs.ZstdCodec}
    compressor = kinds.get(codec, zarr.codecs.BloscCodec)()
    for shards in (None, (3, 128, 128)):
        path = tmp_path / f"{shards}.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=3)
        array = group.create_array(
            "0", shape=pixels.shape, chunks=(3, 64, 64), shards=shards, dtype="uint8",
            compressors=compressor,
        )  # fmt: skip
        array[...] = pixels
        group.attrs.update({"ome": attributes()})
        with open_slide(path) as slide:
            found = slide.read(0, 0, 0, CHUNK, CHUNK)
        np.testing.assert_array_equal(found, pixels.transpose(1, 2, 0))


def bomb(codec: str) -> bytes:
    zeros = bytes(1 << 24)
    if codec in ("zlib", "gzip"):
        # blocks that begin anew can be repeated: 2 GB in one stream
        pack = zlib.compressobj(1, wbits=31 if codec == "gzip" else 15)
        first = pack.compress(zeros) + pack.flush(zlib.Z_FULL_FLUSH)
        return first + (pack.compress(zeros) + pack.flush(zlib.Z_FULL_FLUSH)) * 127
    if codec == "members":
        return gzip.compress(zeros, 1) * 128
    if codec == "bz2":
        return bz2.compress(zeros, 1) * 128
    if codec == "zstd":
        return bytes(imagecodecs.zstd_encode(bytes(1 << 28)))
    if codec == "lz4":
        return (0x7FFFFFFF).to_bytes(4, "little") + bytes(100)
    header = bytes((2, 1, 0x21, 1)) + (0x7FFFFFF0).to_bytes(4, "little")
    return header + (1 << 20).to_bytes(4, "little") + (200).to_bytes(4, "little") + bytes(184)


BOMBS = ["zlib", "gzip", "members", "bz2", "zstd", "lz4", "blosc"]


@pytest.mark.parametrize("codec", BOMBS)
def test_a_chunk_decodes_to_no_more_than_it_declares(tmp_path: Path, codec: str) -> None:
    named = {"id": "gzip" if codec == "members" else codec}
    path = zarr2(tmp_path / "a.zarr", bomb(codec), compressor=named)
    assert "level 0" in refusal_of(lambda: read(path))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "blosc"])
def test_a_chunk_of_zarr_3_decodes_to_no_more_than_it_declares(tmp_path: Path, codec: str) -> None:
    options = {
        "gzip": {"level": 1},
        "zstd": {"level": 0, "checksum": False},
        "blosc": {"cname": "lz4", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0,
                  "typesize": 1},
    }  # fmt: skip
    codecs = [{"name": "bytes"}, {"name": codec, "configuration": options[codec]}]
    path = zarr3(tmp_path / "a.zarr", bomb(codec), codecs)
    assert "level 0" in refusal_of(lambda: read(path))


SIZES: list[dict[str, Any]] = [
    {"chunks": [3, 1 << 20, 1 << 20]},
    {"chunks": [3, 40000, 40000], "shape": [3, 40000, 40000]},
    {"chunks": [3, 1, 1], "shape": [3, 100000, 100000]},
    {"chunks": [3, 0, 1]},
    {"chunks": [3, -1, 1]},
    {"chunks": [3, 1e300, 1]},
    {"shape": [3, 1 << 62, 1 << 62]},
    {"shape": [3, -5, 5]},
    {"shape": [3, True, None]},
    {"shape": []},
    {"shape": [3, 256]},
    {"shape": "abc"},
    {"dtype": "|V1000000000"},
    {"dtype": "<f8"},
    {"dtype": [["a", "|u1"]]},
    {"fill_value": 1e308},
    {"fill_value": {"a": []}},
    {"order": 7},
    {"zarr_format": 99},
    {"filters": "abc"},
    {"filters": [[]]},
    {"compressor": 5},
    {"compressor": []},
]


@pytest.mark.parametrize("changes", SIZES, ids=json.dumps)
def test_sizes_that_cannot_be(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = zarr2(tmp_path / "a.zarr", b"", **changes)
    assert "a.zarr" in refusal_of(lambda: read(path))


def test_shards_of_countless_chunks(tmp_path: Path) -> None:
    index = [{"name": "bytes", "configuration": {"endian": "little"}}]
    options = {"chunk_shape": [3, 1, 1], "codecs": [{"name": "bytes"}], "index_codecs": index}
    grid = {"name": "regular", "configuration": {"chunk_shape": [3, 1 << 20, 1 << 20]}}
    codecs = [{"name": "sharding_indexed", "configuration": options}]
    path = zarr3(tmp_path / "a.zarr", b"", codecs, chunk_grid=grid, shape=[3, 100, 100])
    assert "a.zarr" in refusal_of(lambda: read(path))


LINKS = ["0/0.0.0", "0/.zarray", ".zattrs", "OME/profile.icc", "OME/METADATA.ome.xml", "0"]


@pytest.mark.parametrize("name", LINKS)
def test_links_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    path = zarr2(tmp_path / "a.zarr", bytes(3 * CHUNK * CHUNK))
    (path / "OME").mkdir()
    (path / "OME" / "profile.icc").write_bytes(b"profile")
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    read(path)
    outside = tmp_path / "secret"
    (path / name).rename(outside)
    (path / name).symlink_to(outside)
    with pytest.raises(SlideError, match="outside of it"):
        read(path)
    with pytest.raises(SlideError, match="outside of it"):
        prepare(Job(path, tmp_path / "o.ome.tif", model="bicubic", scale=2, tissue="off"))


def test_names_that_leave_the_folder(tmp_path: Path) -> None:
    zarr2(tmp_path / "b.zarr", bytes(3 * CHUNK * CHUNK))
    path = zarr2(tmp_path / "a.zarr", bytes(3 * CHUNK * CHUNK))
    for name in ("../b.zarr/0", str(tmp_path / "b.zarr" / "0"), "0/../../b.zarr/0"):
        content = attributes()
        content["multiscales"][0]["datasets"][0]["path"] = name
        (path / ".zattrs").write_text(json.dumps(content))
        with pytest.raises(SlideError, match="outside of it"):
            read(path)


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    path = zarr2(tmp_path / "a.zarr", bytes(3 * CHUNK * CHUNK))
    (path / "0" / "0.0.0").rename(path / "stored")
    (path / "0" / "0.0.0").symlink_to("../stored")
    (tmp_path / "link.zarr").symlink_to(path)
    read(path)
    read(tmp_path / "link.zarr")


@pytest.mark.parametrize("name", ["0/0.0.0", "0/.zarray", ".zattrs", "OME/profile.icc"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    path = zarr2(tmp_path / "a.zarr", bytes(3 * CHUNK * CHUNK))
    (path / "OME").mkdir()
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    told = refusal_of(lambda: read(path), seconds=5)
    assert "a.zarr" in told or name == "OME/profile.icc"


def test_metadata_that_is_consolidated_is_not_asked(tmp_path: Path) -> None:
    """Codecs are checked in the files of the arrays, so nothing else may say what they are."""
    path = zarr2(tmp_path / "a.zarr", pickle.dumps(Payload(tmp_path / "ran")))
    described = json.loads((path / "0" / ".zarray").read_text())
    described["compressor"] = {"id": "pickle"}
    content = {
        "zarr_consolidated_format": 1,
        "metadata": {".zgroup": {"zarr_format": 2}, "0/.zarray": described},
    }
    (path / ".zmetadata").write_text(json.dumps(content))
    with pytest.raises(SlideError, match="cannot be decoded"):
        read(path)
    assert not (tmp_path / "ran").exists()
