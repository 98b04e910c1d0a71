"""Tiles in tar files, in WebDataset's layout: `SLIDE/TILE.jpg` members, read by index.

Beside each `NAME.tar` lies `NAME.csv`, its index: member, offset, size, SHA-256. Reading is
sequential through the tar or at random by the index; any WebDataset tool reads the tars alone. A
tar without an index is scanned once. The index is written last: a tar that has one is complete.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Self

from train.errors import DataError
from wsisr.files import write_atomic
from wsisr.sharing import cell, plain_cell

END = b"\0" * 2 * tarfile.BLOCKSIZE
"""The two empty blocks that end a tar."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif")
SHARD_BYTES = 15_000_000
"""Bytes beyond which a shard does not grow, index and padding included."""
COLUMNS = ("name", "offset", "size", "sha256")
"""The columns of an index."""
INDEX_NUMBERS = 64 + 2 * 8 + 4
"""Bytes of a line of an index beside the name, at the most: hash, offset, size, separators."""


@dataclass(frozen=True)
class Tile:
    """Where the coded bytes of one tile lie.

    Attributes:
        name: `slide/file`.
        file: the image, or the tar that holds it.
        offset: bytes from the beginning of `file`.
        size: bytes inside `file`; None is the whole file.
        sha256: hash of the coded bytes, empty where unknown.
    """

    name: str
    file: Path
    offset: int = 0
    size: int | None = None
    sha256: str = ""

    def read(self) -> bytes:
        """Reads the coded bytes.

        Raises:
            DataError: they are not those that were written.
            OSError: the file cannot be read.
        """
        with self.file.open("rb") as file:
            file.seek(self.offset)
            data = file.read() if self.size is None else file.read(self.size)
        if self.sha256 and hashlib.sha256(data).hexdigest() != self.sha256:
            raise DataError(f"{self.file}: {self.name} is not what was written (SHA-256 differs)")
        return data


def find_tiles(folder: Path) -> list[Tile]:
    """Finds all tiles below a folder, loose images and members of tars alike.

    Returns:
        The tiles, sorted by name.

    Raises:
        DataError: there is none, one name stands twice, a shard is damaged, or only its index is
            there.
    """
    tiles: list[Tile] = []
    for file in folder.rglob("*"):
        if file.suffix.lower() in SUFFIXES:
            tiles.append(Tile(file.relative_to(folder).as_posix(), file))
        elif file.suffix == ".tar":
            tiles += read_index(file)
        elif file.suffix == ".csv" and _lacks_shard(file):
            raise DataError(
                f"{file} is the index of a shard that is not there; copy {file.stem}.tar again, or "
                "remove the index"
            )
    tiles.sort(key=lambda tile: tile.name)
    if not tiles:
        raise DataError(f"{folder}: no {', '.join(SUFFIXES)} tiles or .tar shards in it")
    for a, b in pairwise(tiles):
        if a.name == b.name:
            raise DataError(f"{a.name} is both in {a.file} and {b.file}; remove one of them")
    return tiles


def read_index(shard: Path) -> list[Tile]:
    """Lists the tiles of a tar, by its index, or by a scan where it has none.

    Raises:
        DataError: neither can be read.
    """
    index = shard.with_suffix(".csv")
    try:
        if index.exists():
            return _indexed(shard, index)
        with tarfile.open(shard, "r:") as tar:
            return [
                Tile(member.name, shard, member.offset_data, member.size)
                for member in tar
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES
            ]
    except (OSError, ValueError, csv.Error, tarfile.TarError) as error:
        raise DataError(f"{shard}: not a readable shard ({error}); make it again") from error


def _indexed(shard: Path, index: Path) -> list[Tile]:
    """Lists the tiles of an index, which must be all that the tar holds."""
    tiles = []
    with index.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(COLUMNS) <= set(rows.fieldnames or ()):
            raise DataError(
                f"{index} is no index of {shard.name}: it lacks the columns {', '.join(COLUMNS)}; "
                "copy or make both again, or move it away to have the tar scanned"
            )
        for row in rows:
            if None in row or None in row.values():
                raise DataError(
                    f"{index}: line {rows.line_num} is damaged; copy or make both the index and "
                    f"{shard.name} again"
                )
            tiles.append(
                Tile(
                    plain_cell(row["name"]),
                    shard,
                    int(row["offset"]),
                    int(row["size"]),
                    row["sha256"],
                )
            )
    end = max((tile.offset + _padded(tile.size or 0) for tile in tiles), default=0)
    if end + len(END) != shard.stat().st_size:
        raise DataError(
            f"{index} lists {len(tiles)} tiles, which is not what {shard.name} holds: one of the "
            "two was cut off; copy or make both again"
        )
    return tiles


def _lacks_shard(file: Path) -> bool:
    """Tells whether a CSV is an index without its tar."""
    if file.with_suffix(".tar").exists():
        return False
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return set(COLUMNS) <= set(next(csv.reader(lines), ()))
    except (OSError, ValueError, csv.Error):
        return False  # no index, whatever it is


class ShardWriter:
    """Writes `PREFIX-0000.tar`, `PREFIX-0001.tar` and so on, the same bytes for the same tiles.

    It holds one open file and the index of the present shard. In a `with` statement it is closed at
    the end, and a shard that was not finished is removed.

    Args:
        prefix: path and beginning of the name of the shards.
        limit: bytes beyond which a shard does not grow.
    """

    def __init__(self, prefix: Path, limit: int = SHARD_BYTES) -> None:
        self.prefix, self.limit = prefix, limit
        self.tiles: list[Tile] = []
        self._file: IO[bytes] | None = None
        self._rows: list[Tile] = []
        self._count = 0
        prefix.parent.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            if self._file is not None:
                with suppress(OSError):  # what is buffered may not fit on the disk
                    self._file.close()
                self._shard.with_suffix(".partial").unlink(missing_ok=True)

    def add(self, name: str, data: bytes) -> Tile:
        """Appends one tile.

        Args:
            name: `slide/file`, with a suffix of `SUFFIXES`.
            data: its coded bytes.

        Returns:
            Where they lie.
        """
        padded = _in_tar(data)
        if self._file is not None and self._file.tell() + padded + tarfile.RECORDSIZE > self.limit:
            self.close()
        if self._file is None:
            self._file = self._shard.with_suffix(".partial").open("wb")
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o644
        self._file.write(header.tobuf(tarfile.PAX_FORMAT))
        tile = Tile(
            name, self._shard, self._file.tell(), len(data), hashlib.sha256(data).hexdigest()
        )
        self._file.write(data.ljust(padded - tarfile.BLOCKSIZE, b"\0"))
        self._rows.append(tile)
        self.tiles.append(tile)
        return tile

    def close(self) -> None:
        """Finishes the present shard and its index."""
        if self._file is None:
            return
        self._file.write(END)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        shard = self._shard
        shard.with_suffix(".partial").replace(shard)
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows((cell(t.name), t.offset, t.size, t.sha256) for t in self._rows)
        write_atomic(shard.with_suffix(".csv"), text.getvalue().encode())
        self._file, self._rows = None, []
        self._count += 1

    @property
    def _shard(self) -> Path:
        """The present shard."""
        return self.prefix.with_name(f"{self.prefix.name}-{self._count:04d}.tar")


def _in_tar(data: bytes) -> int:
    """Gives the bytes of a member with its header."""
    return tarfile.BLOCKSIZE + _padded(len(data))


def _padded(size: int) -> int:
    """Gives the bytes of a member's content in a tar."""
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def packed_size(name: str, data: bytes) -> int:
    """Gives the bytes that a tile takes in a shard and its index, at the most."""
    return _in_tar(data) + len(name.encode()) + INDEX_NUMBERS
