"""The journal beside a partial output: what is stored so far, so that a run can go on.

Two files stand beside `<OUT>.partial`. `<OUT>.journal` is a header (what is being written, and the
fingerprint of what makes it) and one record a stored tile, appended after the tile's bytes, with
their checksum and its own. `<OUT>.pieces` is a file of equal slots that hold the pieces of
incomplete tiles as they are before encoding, because a level made from decoded JPEG would differ
from one made without interruption. A slot is used again once the tile above is recorded. Every
stored tile is recorded with its piece at once, however soon the tile above may follow: a producer
that pauses after a burst would otherwise leave the burst unrecorded, and keeping a piece costs a
twenty-fifth of encoding its tile.

What is durable when: after `kill -9` every tile that a worker has finished is there, for the page
cache outlives the process; those in the workers' hands or queue are lost. Against power loss, the
data, the pieces and the journal are flushed (`fdatasync`) in the background every five seconds, or
sooner after 16 MB or when 64 slots wait to be used again; slots that stand for more than one tile
wait for that flush, so a power loss costs the tiles since the last one and no more. A resume checks
every checksum, and takes nothing on trust.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError, UsageError
from wsisr.files import AppendFile, os_errors, remove
from wsisr.pyramid.levels import Place
from wsisr.pyramid.spec import PyramidSpec

MAGIC = b"WSISRJ1\n"
NO_PIECE, BLANK_PIECE = -1, -2
FLUSH_SECONDS = 5.0
FLUSH_SLOTS = 64
FLUSH_BYTES = 16 << 20
MAX_HEADER = 1 << 20

# level, state, row, column, offset, length, checksum, slot, checksum of the piece
_RECORD = struct.Struct("<BBIIQIIiI")
_CHECK = struct.Struct("<I")
_SIZE = struct.Struct("<I")
RECORD_SIZE = _RECORD.size + _CHECK.size


class Record(NamedTuple):
    """A stored tile. slot: where its piece is kept (or NO_PIECE, BLANK_PIECE)."""

    place: Place
    state: int
    offset: int
    length: int
    checksum: int
    slot: int = NO_PIECE
    piece_checksum: int = 0


def checksum(data: bytes | memoryview, start: int = 0) -> int:
    """CRC-32 of `data`, continuing from `start`."""
    # libdeflate's is several times faster than zlib's, and this runs over every stored byte
    codec: Any = imagecodecs
    return int(codec.deflate_crc32(data, start))


def describe(spec: PyramidSpec, kind: str, fingerprint: str) -> dict[str, Any]:
    """What must agree between an interrupted run and the one that goes on."""
    plain = {k: v for k, v in asdict(spec).items() if k not in ("provenance", "associated")}
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


class Log(Protocol):
    """What the streaming writer tells of each step; called by one thread at a time."""

    def commit(
        self,
        records: list[Record],
        piece: tuple[Place, NDArray[np.uint8] | None] | None,
        used: Iterable[Place],
    ) -> None:
        """Note stored tiles; keep the piece of the last of them; free the pieces of `used`."""
        ...

    def settle(self) -> None:
        """Touch the output's files no more; nothing more is committed."""
        ...

    def close(self) -> None:
        """Make all durable, close, keep."""
        ...

    def discard(self) -> None:
        """Close and remove."""
        ...


class NoJournal:
    """The `Log` of an output that cannot be resumed."""

    def commit(
        self,
        records: list[Record],
        piece: tuple[Place, NDArray[np.uint8] | None] | None,
        used: Iterable[Place],
    ) -> None:
        """Note nothing."""

    def settle(self) -> None:
        """Nothing goes on in the background."""

    def close(self) -> None:
        """Nothing to close."""

    def discard(self) -> None:
        """Nothing to remove."""


class Journal:
    """The `Log` of a resumable output.

    out: the output, for names and errors. header: of `describe`. slot_bytes: of the largest piece.
    flush_data: makes the tiles written so far durable. lock_fd: of `lock`. kept: bytes of an
    existing journal to go on from, 0 to start. slots: piece slots in use by tile.
    """

    def __init__(
        self,
        out: Path,
        header: dict[str, Any],
        slot_bytes: int,
        flush_data: Callable[[], None],
        lock_fd: int,
        *,
        kept: int = 0,
        slots: dict[Place, int] | None = None,
    ) -> None:
        self._slot_bytes = slot_bytes
        self._flush_data = flush_data
        self._slots = dict(slots or {})
        self._slot_count = 1 + max(self._slots.values(), default=-1)
        taken = set(self._slots.values())
        self._free = [slot for slot in range(self._slot_count) if slot not in taken]
        self._retired: list[int] = []
        self._unflushed = 0
        self._free_lock = Lock()
        self._lock_fd = lock_fd
        self._pieces = AppendFile(
            pieces_path(out), shown=out, size=self._slot_count * slot_bytes if kept else 0
        )
        self._file = AppendFile(journal_path(out), shown=out, size=kept)
        if not kept:
            body = json.dumps(header, sort_keys=True).encode()
            packed = MAGIC + _SIZE.pack(len(body)) + body
            self._file.append(packed + _CHECK.pack(checksum(packed)))
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="wsisr-flush")
        self._flushing: Future[None] | None = None
        self._flushed_at = time.monotonic()

    def commit(
        self,
        records: list[Record],
        piece: tuple[Place, NDArray[np.uint8] | None] | None,
        used: Iterable[Place],
    ) -> None:
        """See `Log.commit`; one write, so that the records of a chain are torn only by power."""
        if piece is not None:
            slot, piece_checksum = self._keep(*piece)
            records[-1] = records[-1]._replace(slot=slot, piece_checksum=piece_checksum)
        position, packed = self._file.end, b""
        for record in records:
            packed += pack(record, position + len(packed))
            self._unflushed += record.length
        self._file.append(packed)
        # only now, for until the records stand the old pieces are what a resume needs
        for place in used:
            self._release(place)
        self._flush_if_due()

    def _keep(self, place: Place, piece: NDArray[np.uint8] | None) -> tuple[int, int]:
        if piece is None:
            return BLANK_PIECE, 0
        data = piece.reshape(-1).data
        with self._free_lock:
            slot = self._free.pop() if self._free else self._slot_count
            self._slot_count = max(self._slot_count, slot + 1)
        self._slots[place] = slot
        self._pieces.overwrite(slot * self._slot_bytes, data)
        return slot, checksum(data)

    def _release(self, place: Place) -> None:
        slot = self._slots.pop(place, None)
        if slot is None:
            return
        if place[0] == 0:
            with self._free_lock:
                self._free.append(slot)
        else:
            self._retired.append(slot)

    def _flush_if_due(self) -> None:
        if self._flushing is not None:
            if not self._flushing.done():
                return
            self._flushing.result()
            self._flushing = None
        due = time.monotonic() - self._flushed_at > FLUSH_SECONDS
        if due or len(self._retired) >= FLUSH_SLOTS or self._unflushed >= FLUSH_BYTES:
            retired, self._retired = self._retired, []
            self._unflushed = 0
            self._flushing = self._flusher.submit(self._flush, retired)

    def _flush(self, retired: list[int]) -> None:
        self._pieces.sync()
        self._flush_data()
        self._file.sync()
        self._flushed_at = time.monotonic()
        with self._free_lock:
            self._free.extend(retired)

    def settle(self) -> None:
        """Wait for the flush that is under way, and start no other."""
        self._flusher.shutdown(wait=True)

    def close(self) -> None:
        """Make all durable, close, keep."""
        try:
            self.settle()
            self._flush([])
        finally:
            self._close_files()

    def discard(self) -> None:
        """Close and remove both files."""
        self._flusher.shutdown(wait=True)
        self._close_files()
        remove(self._pieces.path)
        remove(self._file.path)

    def _close_files(self) -> None:
        self._pieces.close()
        self._file.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def journal_path(out: Path) -> Path:
    """`<OUT>.journal`."""
    return out.with_name(out.name + ".journal")


def pieces_path(out: Path) -> Path:
    """`<OUT>.pieces`."""
    return out.with_name(out.name + ".pieces")


def lock(path: Path, out: Path) -> int:
    """Lock a journal, made empty if there is none, until the returned descriptor is closed.

    Raises OutputError if another run holds it: two would write into one file.
    """
    with os_errors(out):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    busy = OutputError(f"{out} is being written by another run; wait for it to end")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a run that ended in between has removed what was locked here
        if not path.exists() or not os.path.samestat(os.fstat(fd), path.stat()):
            raise busy
    except BlockingIOError as error:
        os.close(fd)
        raise busy from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def pack(record: Record, position: int) -> bytes:
    """A record as it stands at byte `position` of the journal."""
    (level, row, col), state, *rest = record
    body = _RECORD.pack(level, state, row, col, *rest)
    # the position makes a record invalid anywhere else, such as left over from a longer journal
    return body + _CHECK.pack(checksum(body, position & 0xFFFFFFFF))


def read(path: Path) -> tuple[dict[str, Any], list[Record], int] | None:
    """The header, the records and the length in bytes of the sound part of a journal.

    Reading stops at the first record that is short or whose checksum is wrong. None for a journal
    that ends within its header, before anything was stored. Raises OutputError if the header is
    damaged.
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
    damaged = OutputError(f"{path}: not a journal, or damaged; give --overwrite to start anew")
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
    header = json.loads(data[start:end])
    return header, end + _CHECK.size


def check_match(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise UsageError naming what differs between the interrupted run and this one."""
    remedy = f"give --overwrite to discard {out.name}.partial, or the settings of that run"
    for key, what in (("journal", "journal version"), ("format", "format")):
        if found.get(key) != wanted[key]:
            raise UsageError(f"{out}: the unfinished run has another {what}; {remedy}")
    old, new = found.get("spec", {}), wanted["spec"]
    for key in sorted(new):
        if old.get(key) != new[key]:
            values = f"{old.get(key)}, now {new[key]}"
            raise UsageError(f"{out}: the unfinished run has {key} {values}; {remedy}")
    if found.get("fingerprint") != wanted["fingerprint"]:
        changes = "; ".join(differences(found.get("made_by"), wanted["made_by"])[:3])
        raise UsageError(
            f"{out}: the unfinished run was of another input, model or settings"
            f"{f' ({changes})' if changes else ''}; {remedy}"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, a text for each entry."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            text
            for key in sorted({*old, *new})
            for text in differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
        ]
    if old == new:
        return []
    return [f"{name} {_short(old)}, now {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else text[:20] + "..."
