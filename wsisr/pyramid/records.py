"""Describes the journal's file as data: its header, its records, and what may be resumed.

A header names what is being written and the fingerprint of what makes it; one record a stored
tile follows. Both carry checksums, so that whatever a crash left behind is told from what counts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs

from wsisr.errors import OutputError, UsageError
from wsisr.files import os_errors, write_atomic
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
_HEADER_START = len(MAGIC) + _SIZE.size


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


def lock_path(out: Path) -> Path:
    """Names the file that keeps a second run out of an output, `<OUT>.lock`."""
    return out.with_name(out.name + ".lock")


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """Computes the CRC-32 of `data`, continuing from `start`."""
    # libdeflate's is several times faster than zlib's, and this runs over every stored byte
    codec: Any = imagecodecs
    return int(codec.deflate_crc32(data, start))


def describe_run(
    spec: PyramidSpec, kind: str, fingerprint: str, *, blanks_damage: bool = False
) -> dict[str, Any]:
    """Describes what must agree between an interrupted run and the one that goes on.

    Args:
        spec: the pyramid.
        kind: the format.
        fingerprint: what makes the pixels, as a short text.
        blanks_damage: whether tiles may be blank because the input is damaged there.

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
        "blanks_damage": blanks_damage,
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


class JournalContent(NamedTuple):
    """The sound part of a journal.

    Attributes:
        header: what it is of.
        records: the stored tiles, in their order.
        length: how many bytes of the file are sound.
        is_repaired: whether the header was damaged, and what it was is proven by the rest.
    """

    header: dict[str, Any]
    records: list[Record]
    length: int
    is_repaired: bool = False


def read_journal(path: Path, wanted: Sequence[dict[str, Any]] = ()) -> JournalContent | None:
    """Reads the sound part of a journal: up to the first record that is short or damaged.

    Args:
        path: the journal.
        wanted: headers that it may have; a damaged one can be made out to be one of these.

    Returns:
        What it holds; None for a journal that ends within its header, before anything was stored.

    Raises:
        OutputError: the header is damaged beyond repair, or the file cannot be read.
    """
    with os_errors(path):
        data = path.read_bytes()
    header, start = _header(data)
    is_repaired = header is None
    if header is None:
        header, start = _repaired(data, wanted)
    if header is None:
        if _ends_in_header(data):
            return None
        count = max(0, len(data) - _end_of_header(data)) // RECORD_SIZE
        raise OutputError(
            f"{path}: not a journal, or its beginning is damaged, so that the {count} tiles it "
            "notes cannot be gone on from; give <overwrite> to start anew"
        )
    records = []
    for position in range(start, len(data) - RECORD_SIZE + 1, RECORD_SIZE):
        body = data[position : position + _RECORD.size]
        (check,) = _CHECK.unpack_from(data, position + _RECORD.size)
        if check != checksum(body, position & 0xFFFFFFFF):
            break
        level, state, row, col, *rest = _RECORD.unpack(body)
        records.append(Record((level, row, col), state, *rest))
    return JournalContent(header, records, start + len(records) * RECORD_SIZE, is_repaired)


def _header(data: bytes) -> tuple[dict[str, Any] | None, int]:
    """Gives a header that is sound, and where the records begin."""
    if not data.startswith(MAGIC) or len(data) < _HEADER_START:
        return None, 0
    (length,) = _SIZE.unpack_from(data, len(MAGIC))
    end = _HEADER_START + length
    if length > MAX_HEADER or len(data) < end + _CHECK.size:
        return None, 0
    if _CHECK.unpack_from(data, end)[0] != checksum(data[:end]):
        return None, 0
    try:
        return as_object(parse_json(data[_HEADER_START:end])), end + _CHECK.size
    except MalformedError:
        return None, 0


def _repaired(data: bytes, wanted: Sequence[dict[str, Any]]) -> tuple[dict[str, Any] | None, int]:
    """Finds which header a damaged one was: the one of its checksum, or of all but its checksum."""
    for header in wanted:
        packed = pack_header(header)
        found = data[: len(packed)]
        split = len(packed) - _CHECK.size
        if len(found) == len(packed) and (
            found[split:] == packed[split:] or found[:split] == packed[:split]
        ):
            return header, len(packed)
    return None, 0


def _ends_in_header(data: bytes) -> bool:
    """Tells whether a journal was cut off before its first record."""
    return MAGIC.startswith(data[: len(MAGIC)]) and _end_of_header(data) == 0


def _end_of_header(data: bytes) -> int:
    """Gives where a damaged header ends, by its length or else by its text; 0 where it does not."""
    if len(data) >= _HEADER_START:
        end = _HEADER_START + int(_SIZE.unpack_from(data, len(MAGIC))[0]) + _CHECK.size
        if end <= len(data):
            return end
    try:
        text = data[_HEADER_START : _HEADER_START + MAX_HEADER].decode("latin-1")
        return _HEADER_START + json.JSONDecoder().raw_decode(text)[1] + _CHECK.size
    except (ValueError, RecursionError):
        return 0


def write_journal(out: Path, header: dict[str, Any], records: Iterable[Record]) -> int:
    """Writes the journal of an output anew; it is the old or the new one, whatever happens.

    Args:
        out: the output.
        header: what the journal is of.
        records: the stored tiles.

    Returns:
        The length of the journal in bytes.

    Raises:
        OutputError: it cannot be written.
    """
    packed = bytearray(pack_header(header))
    for record in records:
        packed += pack_record(record, len(packed))
    with os_errors(out):
        write_atomic(journal_path(out), bytes(packed))
    return len(packed)


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
    if found.get("blanks_damage") and not wanted["blanks_damage"]:
        raise UsageError(
            f"{out}: the unfinished run may have blank tiles where its input is damaged "
            f"(on_tile_error blank, now fail); {remedy}"
        )
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
