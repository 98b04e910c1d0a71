"""What of an interrupted run can be gone on from.

A tile counts as done if its stored bytes are sound and what it gives to the level above is not
lost: the tile above is done, or its piece is kept. Tiles are judged from the top level down, so
that a lost tile takes its pieces' owners with it, and is made again from them where they are kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError
from wsisr.files import os_errors
from wsisr.pyramid.journal import BLANK_PIECE, Record, checksum, pieces_path
from wsisr.pyramid.levels import BLANK, STORED, Place
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec


@dataclass
class Restored:
    """Sound tiles, the pieces that wait for siblings, and the slots those are kept in."""

    records: dict[Place, Record] = field(default_factory=dict)
    pieces: dict[Place, NDArray[np.uint8] | None] = field(default_factory=dict)
    slots: dict[Place, int] = field(default_factory=dict)


def restore(out: Path, spec: PyramidSpec, records: list[Record], sink: TileSink) -> Restored:
    """Judge the records of a journal against the stored bytes. Reads the partial output once."""
    latest = {record.place: record for record in records if _plausible(spec, record)}
    top = len(spec.levels) - 1
    restored = Restored()
    with os_errors(out), pieces_path(out).open("rb") as kept:
        for place in sorted(latest, key=lambda place: -place[0]):
            record = latest[place]
            if not _sound(sink, record):
                continue
            level, row, col = place
            if level < top and (level + 1, row // 2, col // 2) not in restored.records:
                found, piece = _piece(spec, record, kept.fileno())
                if not found:
                    continue
                restored.pieces[place] = piece
                if record.slot >= 0:
                    restored.slots[place] = record.slot
            restored.records[place] = record
    return restored


def _plausible(spec: PyramidSpec, record: Record) -> bool:
    level, row, col = record.place
    if level >= len(spec.levels) or record.state not in (STORED, BLANK):
        return False
    rows, cols = spec.grid(level)
    # no codec grows a tile to twice its pixels; a wild length must not be read into memory
    fits = record.length <= 6 * spec.tile**2 + 65536 and record.offset < 2**62
    return row < rows and col < cols and fits


def _sound(sink: TileSink, record: Record) -> bool:
    try:
        data = sink.read(record.place, record.offset, record.length)
    except OutputError:
        return False
    return len(data) == record.length and checksum(data) == record.checksum


def _piece(spec: PyramidSpec, record: Record, kept: int) -> tuple[bool, NDArray[np.uint8] | None]:
    if record.slot == BLANK_PIECE:
        return True, None
    if record.slot < 0:
        return False, None
    rows, cols = (-(-side // 2) for side in spec.tile_shape(*record.place))
    size = rows * cols * spec.samples
    data = os.pread(kept, size, record.slot * slot_bytes(spec))
    if len(data) < size or checksum(data) != record.piece_checksum:
        return False, None
    return True, np.frombuffer(data, np.uint8).reshape(rows, cols, spec.samples)


def slot_bytes(spec: PyramidSpec) -> int:
    """Bytes of the largest piece."""
    return (spec.tile // 2) ** 2 * spec.samples
