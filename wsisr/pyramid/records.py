"""Describes the journal's file as data: its header, its records, and what may be resumed.

A header names what is being written and the fingerprint of what makes it; one record a stored
tile follows. Both carry checksums, so that whatever a crash left behind is told from what counts.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs

from wsisr.errors import OutputError, UsageError
from wsisr.files import os_errors
from wsisr.parsing import MalformedError, as_object, parse_json
from wsisr.pyramid.levels import TileAddress
from wsisr.pyramid.spec import PyramidSpec

MAGIC = b"WSISRJ1\n"
NO_PIECE, BLANK_PIECE = -1, -2
"""Slots of a tile whose piece is not kept, and of one whose piece is pure background."""
MAX_HEADER = 1 << 20
MAX_SHOWN = 100
"""Characters of a value of another run that an error quotes."""

# level, state, row, column, offset, length, checksum, slot, checksum of the piece
_RECORD = struct.Struct("<BBIIQIIiI")
_CHECK = struct.Struct("<I")
_SIZE = struct.Struct("<I")
RECORD_SIZE = _RECORD.size + _CHECK.size


class Record(NamedTuple):
    """A stored tile.

    Attributes:
        address: the tile.
        state: STORED or BLANK.
        offset: position of its bytes, as the format counts it.
        length: how many bytes they are.
        checksum: CRC-32 of these bytes.
        slot: where its piece is kept, NO_PIECE or BLANK_PIECE.
        piece_checksum: CRC-32 of the piece.
    """

    address: TileAddress
    state: int
    offset: int
    length: int
    checksum: int
    slot: int = NO_PIECE
    piece_checksum: int = 0


def journal_path(out: Path) -> Path:
    """Names the journal of an output, `<OUT>.journal`."""
    return out.with_name(out.name + ".journal")


def pieces_path(out: Path) -> Path:
    """Names the file of kept pieces of an output, `<OUT>.pieces`."""
    return out.with_name(out.name + ".pieces")


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Computes the CRC-32 of `data`, continuing from `start`."""
    # libdeflate's is several times faster than zlib's, and this runs over every stored byte
    codec: Any = imagecodecs
    return int(codec.deflate_crc32(data, start))


def describe_run(spec: PyramidSpec, kind: str, fingerprint: str) -> dict[str, Any]:
    """Describes what must agree between an interrupted run and the one that goes on.

    Args:
        spec: the pyramid.
        kind: the format.
        fingerprint: what makes the pixels, as a short text.

    Returns:
        The header of the journal, in plain JSON values.
    """
    plain = {
        k: v for k, v in asdict(spec).items() if k not in ("provenance", "associated", "position")
    }
    plain["icc_profile"] = sha256(spec.icc_profile or b"").hexdigest()
    plain["background"], plain["channels"] = list(spec.background), list(spec.channels)
    plain["associated"] = sorted(spec.associated)
    # told apart by the fingerprint; kept to say what differs
    made_by = json.loads(json.dumps(dict(spec.provenance), default=str))
    return {
        "journal": 1,
        "format": kind,
        "fingerprint": fingerprint,
        "made_by": made_by,
        "spec": plain,
    }


def pack_header(header: dict[str, Any]) -> bytes:
    """Packs a header as it stands at the start of the journal."""
    body = json.dumps(header, sort_keys=True).encode()
    packed = MAGIC + _SIZE.pack(len(body)) + body
    return packed + _CHECK.pack(checksum(packed))


def pack_record(record: Record, position: int) -> bytes:
    """Packs a record as it stands at byte `position` of the journal."""
    (level, row, col), state, *rest = record
    body = _RECORD.pack(level, state, row, col, *rest)
    # the position makes a record invalid anywhere else, such as left over from a longer journal
    return body + _CHECK.pack(checksum(body, position & 0xFFFFFFFF))


def read_journal(path: Path) -> tuple[dict[str, Any], list[Record], int] | None:
    """Reads the sound part of a journal: up to the first record that is short or damaged.

    Args:
        path: the journal.

    Returns:
        The header, the records and the length of the sound part in bytes; None for a journal that
        ends within its header, before anything was stored.

    Raises:
        OutputError: the header is damaged, or the file cannot be read.
    """
    with os_errors(path):
        data = path.read_bytes()
    found = _header(path, data)
    if found is None:
        return None
    header, start = found
    records = []
    for position in range(start, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
        body = data[position : position + _RECORD.size]
        (check,) = _CHECK.unpack_from(data, position + _RECORD.size)
        if check != checksum(body, position & 0xFFFFFFFF):
            break
        level, state, row, col, *rest = _RECORD.unpack(body)
        records.append(Record((level, row, col), state, *rest))
    return header, records, start + len(records) * RECORD_SIZE


def _header(path: Path, data: bytes) -> tuple[dict[str, Any], int] | None:
    damaged = OutputError(f"{path}: not a journal, or damaged; give <overwrite> to start anew")
    start = len(MAGIC) + _SIZE.size
    if not data.startswith(MAGIC[: len(data)]):
        raise damaged
    if len(data) < start:
        return None
    (length,) = _SIZE.unpack_from(data, len(MAGIC))
    end = start + length
    if length > MAX_HEADER:
        raise damaged
    if len(data) < end + _CHECK.size:
        return None
    if _CHECK.unpack_from(data, end)[0] != checksum(data[:end]):
        raise damaged
    try:
        header = as_object(parse_json(data[start:end]))
    except MalformedError as error:
        raise damaged from error
    return header, end + _CHECK.size


def check_match(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Makes sure that an interrupted run is the one that is to go on.

    Args:
        out: the output.
        found: header of the interrupted run.
        wanted: header of this run, of `describe_run`.

    Raises:
        UsageError: they differ; the message says in what.
    """
    remedy = f"give <overwrite> to discard {out.name}.partial, or the settings of that run"
    for key, what in (("journal", "journal version"), ("format", "format")):
        if found.get(key) != wanted[key]:
            raise UsageError(f"{out}: the unfinished run has another {what}; {remedy}")
    old, new = found.get("spec"), wanted["spec"]
    old = old if isinstance(old, dict) else {}
    for key in sorted(new):
        if old.get(key) != new[key]:
            before = " ".join(str(old.get(key)).split())[:MAX_SHOWN]
            values = f"{before}, now {new[key]}"
            raise UsageError(f"{out}: the unfinished run has {key} {values}; {remedy}")
    if found.get("fingerprint") != wanted["fingerprint"]:
        changes = "; ".join(differences(found.get("made_by"), wanted["made_by"])[:3])
        raise UsageError(
            f"{out}: the unfinished run was of another input, model or settings"
            f"{f' ({changes})' if changes else ''}; {remedy}"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Lists what differs between two JSON values.

    Args:
        old: the value before.
        new: the value now.
        name: what both are called in the texts.

    Returns:
        One text for each entry that differs.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for key in sorted({*old, *new})
            for text in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    if old == new:
        return []
    return [f"{name} {_shortened(old)}, now {_shortened(new)}"]


def _shortened(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + "..."
