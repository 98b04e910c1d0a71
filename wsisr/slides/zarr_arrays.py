"""Opens arrays of a Zarr folder of any origin: nothing is run, and nothing outside it is read.

Zarr names its codecs, and a library decodes with whatever is installed, `pickle` among it. Here
only codecs of `COMPRESSORS` and `FILTERS` are let in, and none gives more than a chunk holds. Links
that leave the folder, pipes and devices count as damage.

References:
    Zarr 2 and 3; numcodecs' registry; Blosc's header (README_CHUNK_FORMAT).
"""

from __future__ import annotations

import asyncio
import bz2
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import imagecodecs
from numcodecs.abc import Codec
from zarr import Array, AsyncArray
from zarr import open_array as open_zarr_array
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.storage import LocalStore

from wsisr.errors import SlideError
from wsisr.parsing import MalformedError, as_object, open_regular, read_json_object

MAX_CHUNK_BYTES = 128 << 20
"""The largest chunk, decoded: real ones are a hundredth of it."""
MIN_CHUNK_PIXELS = 256
MAX_SMALL_CHUNKS = 1 << 14
"""Chunks that a level may have where they are smaller than `MIN_CHUNK_PIXELS`."""
MAX_SHARD_CHUNKS = 1 << 20
MAX_SIDE = (1 << 31) - 1
CHECKSUM_BYTES = 64
"""What filters may add to a chunk."""

Decode = Callable[[bytes, int], bytes]
"""Decodes a chunk to at most so many bytes; raises ValueError where there are more."""


def _inflate(window_bits: int) -> Decode:
    def decode(data: bytes, most: int) -> bytes:
        out = b""
        while data and len(out) <= most:
            part = zlib.decompressobj(window_bits)
            out += part.decompress(data, most + 1 - len(out))
            if not part.eof:
                break
            data = part.unused_data
        return _fitting(out, most)

    return decode


def _bunzip(data: bytes, most: int) -> bytes:
    return _fitting(bz2.BZ2Decompressor().decompress(data, most + 1), most)


def _zstd(data: bytes, most: int) -> bytes:
    codec: Any = imagecodecs
    return bytes(codec.zstd_decode(data, out=most))


def _blosc(data: bytes, most: int) -> bytes:
    from numcodecs import blosc

    _declared(data, 4, most)
    return bytes(blosc.decompress(data))


def _lz4(data: bytes, most: int) -> bytes:
    from numcodecs import lz4

    _declared(data, 0, most)
    return bytes(lz4.decompress(data))


def _declared(data: bytes, offset: int, most: int) -> None:
    """Refuses a chunk whose header declares more than `most` bytes."""
    if int.from_bytes(data[offset : offset + 4], "little") > most:
        raise ValueError("it declares more than a chunk holds")


def _fitting(data: bytes, most: int) -> bytes:
    if len(data) > most:
        raise ValueError("it holds more than a chunk")
    return data


COMPRESSORS: Mapping[str, Decode] = {
    "blosc": _blosc,
    "zstd": _zstd,
    "zlib": _inflate(zlib.MAX_WBITS),
    "gzip": _inflate(zlib.MAX_WBITS | 16),
    "lz4": _lz4,
    "bz2": _bunzip,
}
"""Name of a compressor, in Zarr 2 and 3 -> what decodes it."""
FILTERS = frozenset({"shuffle", "crc32", "crc32c", "adler32", "fletcher32"})
"""Filters of Zarr 2 that do no more than to reorder or to check bytes."""
CODECS = frozenset({"bytes", "transpose", "crc32c", "sharding_indexed", "blosc", "zstd", "gzip"})
"""Codecs of Zarr 3."""
INDEX_CODECS = frozenset({"bytes", "crc32c"})


def attributes_of(root: Path) -> dict[str, Any]:
    """Reads the attributes of the group at the root of a Zarr.

    Args:
        root: the folder.

    Raises:
        SlideError: its metadata is missing, damaged, or a link that leaves the folder.
    """
    if zarr_format(root) == 2:
        file = root / ".zattrs"
        return _metadata(root, ".zattrs") if file.exists() else {}
    return as_object(_metadata(root, "zarr.json").get("attributes", {}))


def zarr_format(root: Path) -> Literal[2, 3]:
    """Tells the version of the format of a Zarr folder, 2 or 3."""
    return 3 if (root / "zarr.json").is_file() else 2


def inside(root: Path, name: str) -> Path:
    """Gives the file of a Zarr folder that has a name.

    Args:
        root: the folder.
        name: path below it.

    Raises:
        SlideError: the name, or a link on the way, leaves the folder.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise SlideError(
            f"{root} refers to a file outside of it ({name[:100]!r}); a slide must hold its own "
            "files: replace the link by the file where it can be trusted"
        )
    return path


def _metadata(root: Path, name: str) -> dict[str, Any]:
    try:
        return read_json_object(inside(root, name))
    except MalformedError as error:
        raise SlideError(f"{root}: {name[:100]} is damaged ({error}); copy it again") from error


def open_array(root: Path, name: str) -> Array:
    """Opens an array of uint8 for reading.

    Args:
        root: the Zarr folder.
        name: of the array.

    Returns:
        The array; its shape and chunks are within bounds, and reading it decodes no more than it
        declares.

    Raises:
        SlideError: what is wrong with it.
    """
    version = zarr_format(root)
    file = f"{name}/{'zarr.json' if version == 3 else '.zarray'}"
    described = _metadata(root, file)
    try:
        _check_codecs(root, name, list(_codecs(described, version)))
        _check_geometry(described)
        array = open_zarr_array(_Contained(root), path=name, mode="r", zarr_format=version)
        chunk = math.prod(array.chunks) * array.dtype.itemsize
        return _bounded(array, chunk + CHECKSUM_BYTES)
    except SlideError:
        raise
    except Exception as error:  # zarr's stores and codecs raise errors of any kind
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise SlideError(
            f"{root}: {file[:100]} describes no image ({reason}); check that the folder is complete"
        ) from error


def _codecs(described: Mapping[str, Any], version: int) -> Iterator[tuple[str, frozenset[str]]]:
    """Yields the codecs that an array's metadata name, each with those that may stand there."""
    if version == 2:
        if described.get("compressor") is not None:
            yield str(described["compressor"].get("id")), frozenset(COMPRESSORS)
        for each in described.get("filters") or ():
            yield str(each.get("id")), FILTERS
        return
    waiting = [(each, CODECS) for each in described["codecs"]]
    while waiting:
        each, allowed = waiting.pop()
        named = isinstance(each, Mapping)
        yield str(each["name"] if named else each), allowed
        options = each.get("configuration", {}) if named else {}
        waiting += [(inner, CODECS) for inner in options.get("codecs", ())]
        waiting += [(inner, INDEX_CODECS) for inner in options.get("index_codecs", ())]
    if described.get("storage_transformers"):
        yield "a storage transformer", CODECS


def _check_codecs(root: Path, name: str, codecs: list[tuple[str, frozenset[str]]]) -> None:
    for codec, allowed in codecs:
        if codec not in allowed:
            raise SlideError(
                f"{root}: level {name[:100]} is coded by {codec[:100]!r}, which is not decoded "
                f"({', '.join(sorted(allowed))} are); store it again with one of these"
            )


def _check_geometry(described: Mapping[str, Any]) -> None:
    """Refuses sizes that cannot be, or that take too much time or memory.

    Raises:
        ValueError: which they are.
    """
    shape = _sides(described["shape"])
    grid = described.get("chunks")
    shards = None
    if grid is None:
        grid = described["chunk_grid"]["configuration"]["chunk_shape"]
        for each in described["codecs"]:
            if isinstance(each, Mapping) and each.get("name") == "sharding_indexed":
                shards, grid = _sides(grid), each["configuration"]["chunk_shape"]
    chunks = _sides(grid)
    if not len(shape) == len(chunks) <= 8 or (shards and len(shards) != len(chunks)):
        raise ValueError("shape and chunks differ in their axes")
    if math.prod(chunks) > MAX_CHUNK_BYTES:
        raise ValueError("its chunks are too large to decode; store it in smaller ones")
    count = math.prod(-(-side // chunk) for side, chunk in zip(shape, chunks, strict=True))
    if math.prod(chunks) < MIN_CHUNK_PIXELS and count > MAX_SMALL_CHUNKS:
        raise ValueError("its chunks are too small to read; store it in larger ones")
    if shards and math.prod(shards) // math.prod(chunks) > MAX_SHARD_CHUNKS:
        raise ValueError("its shards hold too many chunks; store it in smaller ones")


def _sides(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(
        isinstance(side, int) and 0 < side <= MAX_SIDE for side in values
    ):
        raise ValueError("its sizes are not whole numbers above 0")
    return values


class _Contained(LocalStore):
    """A folder that is read, and of which no link leads out."""

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(Path(root).resolve(), read_only=True)

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Reads a value, or a part of it."""
        path = inside(self.root, key)
        if path.exists():
            open_regular(path).close()
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        """Reads parts of values."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]


@dataclasses.dataclass(frozen=True)
class _Bounded(BytesBytesCodec):
    """Decodes as a compressor of Zarr 3 does, within the size of a chunk."""

    name: str
    most: int
    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        decode = COMPRESSORS[self.name]
        data = await asyncio.to_thread(decode, chunk_bytes.to_bytes(), self.most)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Is not asked for where chunks are read."""
        raise NotImplementedError


class _Bounded2(Codec):
    """Decodes as a compressor of Zarr 2 does, within the size of a chunk."""

    codec_id = "wsisr-bounded"

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most = name, most

    def decode(self, data: Any, out: Any = None) -> bytes:
        """Decodes a chunk."""
        return COMPRESSORS[self._name](bytes(data), self._most)

    def encode(self, data: Any) -> Any:
        """Is not asked for where chunks are read."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Gives the codec's name and the compressor's."""
        return {"id": self.codec_id, "compressor": self._name}


def _bounded(array: Any, most: int) -> Array:
    """Gives an array whose compressors decode no more than a chunk holds."""
    metadata = array.metadata
    if array.metadata.zarr_format == 2:
        if metadata.compressor is None:
            return array
        compressor = _Bounded2(metadata.compressor.codec_id, most)
        metadata = dataclasses.replace(metadata, compressor=compressor)
    else:
        metadata = dataclasses.replace(metadata, codecs=_bounded_codecs(metadata.codecs, most))
    return Array(AsyncArray(metadata=metadata, store_path=array.store_path))


def _bounded_codecs(codecs: Any, most: int) -> tuple[Any, ...]:
    found = []
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            inner = _bounded_codecs(codec.codecs, most)
            found.append(dataclasses.replace(codec, codecs=inner))
        else:
            name = type(codec).__name__.removesuffix("Codec").lower()
            found.append(_Bounded(name, most) if name in COMPRESSORS else codec)
    return tuple(found)
