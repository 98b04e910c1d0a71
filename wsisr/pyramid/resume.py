"""Judges what of an interrupted run can be gone on from.

A tile counts as done if its stored bytes are sound and what it gives to the level above is not
lost: the tile above is done, or its piece is kept. Tiles are judged from the top level down, so
that a lost tile takes its pieces' owners with it, and is made again from them where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError
from wsisr.files import os_errors, read_at
from wsisr.pyramid.levels import BLANK, STORED, TileAddress, address_above
from wsisr.pyramid.records import BLANK_PIECE, Record, checksum, pieces_path
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec

READS_AT_ONCE = 8
"""Object storage answers each read after tens of milliseconds, whatever its size."""
READS_WAITING = 64
"""Tiles that may be held in memory at a time."""


@dataclass
class Restored:
    """What a run goes on from.

    Attributes:
        records: the sound tiles.
        pieces: what waits for its siblings, by tile; None for pure background.
        slots: where those pieces are kept, by tile.
    """

    records: dict[TileAddress, Record] = field(default_factory=dict)
    pieces: dict[TileAddress, NDArray[np.uint8] | None] = field(default_factory=dict)
    slots: dict[TileAddress, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SoundTile:
    """A tile that can be gone on from.

    Attributes:
        record: what the journal says of it.
        data: its stored bytes.
        waits: whether the tile above is still to be made, for which `piece` is kept.
        piece: what it gives to the tile above; None for pure background.
    """

    record: Record
    data: bytes
    waits: bool = False
    piece: NDArray[np.uint8] | None = None


def restore(out: Path, spec: PyramidSpec, records: list[Record], sink: TileSink) -> Restored:
    """Judges the records of a journal against the stored bytes; reads the partial output once.

    Args:
        out: the output.
        spec: the pyramid.
        records: the records of the journal, in their order.
        sink: the partial output.

    Returns:
        What can be gone on from.

    Raises:
        OutputError: the kept pieces cannot be read.
    """
    restored = Restored()
    for tile in sound_tiles(out, spec, records, sink):
        address = tile.record.address
        restored.records[address] = tile.record
        if tile.waits:
            restored.pieces[address] = tile.piece
            if tile.record.slot >= 0:
                restored.slots[address] = tile.record.slot
    return restored


def sound_tiles(
    out: Path, spec: PyramidSpec, records: list[Record], sink: TileSink
) -> Iterator[SoundTile]:
    """Walks over the tiles that can be gone on from, and reads each once.

    Args:
        out: the output.
        spec: the pyramid.
        records: the records of the journal, in their order.
        sink: the partial output.

    Yields:
        The tiles from the top level down, in the journal's order within a level.

    Raises:
        OutputError: the kept pieces cannot be read.
    """
    latest = {record.address: record for record in records if _plausible(spec, record)}
    top = len(spec.levels) - 1
    ordered = sorted(latest.values(), key=lambda record: -record.address[0])
    sound: set[TileAddress] = set()
    with os_errors(out):
        kept = pieces_path(out).open("rb")
    with kept:
        for record, data in _read_sound(sink, ordered):
            address = record.address
            if data is None:
                continue
            if waits := address[0] < top and address_above(address) not in sound:
                with os_errors(out):
                    found, piece = _piece(spec, record, kept.fileno())
                if not found:
                    continue
                yield SoundTile(record, data, waits, piece)
            else:
                yield SoundTile(record, data)
            sound.add(address)


def is_whole(spec: PyramidSpec, records: list[Record], sink: TileSink) -> bool:
    """Tells whether a journal has every tile of an output, and each is stored as it says.

    Args:
        spec: the pyramid.
        records: the records of the journal.
        sink: the output, which is read once.
    """
    latest = {record.address: record for record in records if _plausible(spec, record)}
    grids = [spec.grid(level) for level in range(len(spec.levels))]
    if len(latest) < sum(rows * columns for rows, columns in grids):
        return False
    return all(data is not None for _, data in _read_sound(sink, list(latest.values())))


def _plausible(spec: PyramidSpec, record: Record) -> bool:
    level, row, col = record.address
    if level >= len(spec.levels) or record.state not in (STORED, BLANK):
        return False
    rows, cols = spec.grid(level)
    # no codec grows a tile to twice its pixels; a wild length must not be read into memory
    fits = record.length <= 6 * spec.tile**2 + 65536 and record.offset < 2**62
    return row < rows and col < cols and fits


def _read_sound(sink: TileSink, records: Sequence[Record]) -> Iterator[tuple[Record, bytes | None]]:
    """Reads stored tiles, several at a time; None stands for bytes that are not as written."""
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        for start in range(0, len(records), READS_WAITING):
            some = records[start : start + READS_WAITING]
            yield from zip(some, pool.map(partial(_sound_bytes, sink), some), strict=True)


def _sound_bytes(sink: TileSink, record: Record) -> bytes | None:
    try:
        data = sink.read(record.address, record.offset, record.length)
    except OutputError:
        return None
    is_sound = len(data) == record.length and checksum(data) == record.checksum
    return data if is_sound else None


def _piece(spec: PyramidSpec, record: Record, kept: int) -> tuple[bool, NDArray[np.uint8] | None]:
    """Tells whether the piece of a tile is kept and sound, and reads it."""
    if record.slot == BLANK_PIECE:
        return True, None
    if record.slot < 0:
        return False, None
    rows, cols = (-(-side // 2) for side in spec.tile_shape(*record.address))
    size = rows * cols * spec.samples
    data = read_at(kept, record.slot * slot_bytes(spec), size)
    if len(data) < size or checksum(data) != record.piece_checksum:
        return False, None
    return True, np.frombuffer(data, np.uint8).reshape(rows, cols, spec.samples)


def slot_bytes(spec: PyramidSpec) -> int:
    """Computes the size of the largest piece in bytes."""
    return (spec.tile // 2) ** 2 * spec.samples
