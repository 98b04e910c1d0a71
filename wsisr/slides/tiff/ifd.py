"""Walks the directories of a TIFF file (TIFF 6.0; BigTIFF) and takes nothing on trust.

Every position is checked against the file's size and every directory is visited once, so a cycle
in the chain, a count that lies or a cut file ends in a `SlideError`. At most `MAX_IFDS`
directories of `MAX_TAGS` tags are walked, and values are read when they are asked for: memory is
about 100 bytes a tag besides them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.formats import TagId
from wsisr.slides.tiff.bytes_at import BytesAt

log = logging.getLogger(__name__)

MAX_IFDS = 4096
MAX_TAGS = 4096
MAX_TEXT = 32 << 20
MAX_VALUE = 128 << 20
"""Bytes of the longest value: positions of 16 million tiles."""

# type number: numpy type of one value, or of its parts (TIFF 6.0 section 2, BigTIFF 16-18)
TYPES = {
    1: "u1", 2: "u1", 3: "u2", 4: "u4", 5: "u4,u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4",
    10: "i4,i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8", 18: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Tag:
    """Tells where a tag's values lie.

    Attributes:
        dtype: numpy type of one value.
        count: how many values there are.
        offset: position of the first in the file.
    """

    dtype: np.dtype
    count: int
    offset: int


@dataclass(frozen=True)
class Ifd:
    """Holds one directory.

    Attributes:
        source: the file.
        tags: the directory's tags by number.
        children: the directories that its SubIFDs tag names.
    """

    source: BytesAt
    tags: Mapping[int, Tag]
    children: tuple[Ifd, ...] = ()

    def raw(self, tag: int) -> bytes:
        """Reads the bytes of a tag's value; empty where there is no such tag."""
        found = self.tags.get(tag)
        return b"" if found is None else read_value(self.source, found)

    def optional(self, tag: int, most: int | None = None) -> bytes:
        """Reads the bytes of a tag that no pixel depends on; empty where they lie nowhere.

        Args:
            tag: the tag.
            most: how many bytes of it are read; None reads all.
        """
        found = self.tags.get(tag)
        if found is not None and most is not None:
            found = replace(found, count=min(found.count, most // found.dtype.itemsize))
        try:
            return b"" if found is None else read_value(self.source, found)
        except SlideError as error:
            log.warning("%s (tag %d, which is left out)", error, tag)
            return b""

    def text(self, tag: int, most: int | None = None) -> str:
        """Reads a text up to its first zero byte; empty where there is none.

        Args:
            tag: the tag.
            most: how many bytes of it are read; None reads all of what is not beyond `MAX_TEXT`.
        """
        found = self.tags.get(tag)
        if found is None or (most is None and found.count * found.dtype.itemsize > MAX_TEXT):
            return ""
        return self.optional(tag, most).split(b"\0", 1)[0].decode("utf-8", "replace")

    def integers(self, tag: int) -> NDArray[np.uint64]:
        """Reads whole numbers.

        Args:
            tag: the tag.

        Returns:
            The values as uint64; empty where there is no such tag.

        Raises:
            SlideError: the tag holds values of another type.
        """
        found = self.tags.get(tag)
        if found is None:
            return np.zeros(0, np.uint64)
        if found.dtype.kind not in "ui":
            raise SlideError(
                f"{self.source.path} is damaged: tag {tag} does not hold whole numbers"
            )
        values = np.frombuffer(self.raw(tag), found.dtype)
        if found.dtype.kind == "i" and (values < 0).any():
            raise SlideError(f"{self.source.path} is damaged: tag {tag} holds a negative number")
        return values.astype(np.uint64)

    def integer(self, tag: int, default: int) -> int:
        """Reads the first whole number; `default` where there is none."""
        found = self.tags.get(tag)
        if found is None or not found.count:
            return default
        return int(self._first(tag).integers(tag)[0])

    def _first(self, tag: int) -> Ifd:
        """Gives the directory with the first value of a tag alone."""
        return replace(self, tags={tag: replace(self.tags[tag], count=1)})

    def number(self, tag: int) -> float | None:
        """Reads the first value as a float, rationals divided; None where there is none."""
        found = self.tags.get(tag)
        data = b"" if found is None else self.optional(tag, found.dtype.itemsize)
        if found is None or not data:
            return None
        value = np.frombuffer(data, found.dtype)[0]
        if found.dtype.fields is None:
            return float(value)
        return float(value[0]) / float(value[1]) if value[1] else None


def read_value(source: BytesAt, tag: Tag) -> bytes:
    """Reads all bytes of a tag's value."""
    if tag.count * tag.dtype.itemsize > MAX_VALUE:
        raise SlideError(f"{source.path} is damaged: a tag claims {tag.count} values")
    return source.read(tag.offset, tag.count * tag.dtype.itemsize)


def read_ifds(source: BytesAt) -> list[Ifd]:
    """Reads the directories of a TIFF file.

    Args:
        source: the file.

    Returns:
        Those of the main chain in order, each with its SubIFDs.

    Raises:
        SlideError: no TIFF file, or a damaged one.
    """
    head = source.read(0, 8)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order}H", head[2:4])[0] if order else 0
    if order is None or version not in (42, 43):
        raise SlideError(f"{source.path} is not a TIFF file; check the file")
    if version == 42:
        walk = _Walk(source, order, "H", "I", 4)
        first = struct.unpack(f"{order}I", head[4:])[0]
    else:
        walk = _Walk(source, order, "Q", "Q", 8)
        first = struct.unpack(f"{order}Q", source.read(8, 8))[0]
    return walk.chain(first)


class _Walk:
    """Walks through one file and remembers the directories seen."""

    def __init__(self, source: BytesAt, order: str, count: str, offset: str, inline: int) -> None:
        self._source = source
        self._byteorder: Literal["<", ">"] = "<" if order == "<" else ">"
        self._count = struct.Struct(order + count)
        self._offset = struct.Struct(order + offset)
        self._entry = struct.Struct(f"{order}HH{offset}{inline}s")
        self._inline = inline
        self._seen: set[int] = set()

    def chain(self, first: int) -> list[Ifd]:
        """Reads the directory at `first` and those that follow it."""
        found: list[Ifd] = []
        while first:
            if found and first in self._seen:
                log.warning(
                    "%s: its image directories form a cycle; each is read once", self._source.path
                )
                break
            ifd, first = self._directory(first, nested=False)
            found.append(ifd)
        return found

    def _directory(self, offset: int, *, nested: bool) -> tuple[Ifd, int]:
        """Reads the directory at `offset`, and where the next one lies (0: nowhere)."""
        path = self._source.path
        if offset in self._seen:
            raise SlideError(f"{path} is damaged: its image directories form a cycle")
        if len(self._seen) >= MAX_IFDS:
            raise SlideError(f"{path} has more than {MAX_IFDS} image directories; it is no slide")
        self._seen.add(offset)
        (count,) = self._count.unpack(self._source.read(offset, self._count.size))
        if not 0 < count <= MAX_TAGS:
            raise SlideError(f"{path} is damaged: an image directory claims {count} entries")
        start = offset + self._count.size
        body = self._source.read(start, count * self._entry.size + self._offset.size)
        tags: dict[int, Tag] = {}
        for index in range(count):
            number, kind, values, _ = self._entry.unpack_from(body, index * self._entry.size)
            if kind not in TYPES:
                continue
            dtype = np.dtype(TYPES[kind]).newbyteorder(self._byteorder)
            position = start + (index + 1) * self._entry.size - self._inline
            if values * dtype.itemsize > self._inline:
                (position,) = self._offset.unpack(self._source.read(position, self._offset.size))
            # of a tag that is there twice the first counts, as libtiff has it
            tags.setdefault(number, Tag(dtype, values, position))
        ifd = Ifd(self._source, tags)
        if not nested and TagId.SUB_IFDS in tags and tags[TagId.SUB_IFDS].count <= MAX_IFDS:
            children = [
                self._directory(int(child), nested=True)[0]
                for child in ifd.integers(TagId.SUB_IFDS)
                if child
            ]
            ifd = Ifd(self._source, tags, tuple(children))
        (following,) = self._offset.unpack_from(body, count * self._entry.size)
        return ifd, following
