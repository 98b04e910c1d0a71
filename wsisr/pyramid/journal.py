"""Keeps the journal beside a partial output: what is stored so far, so that a run can go on.

Three files stand beside `<OUT>.partial`. `<OUT>.journal` is a header (what is being written, and
the fingerprint of what makes it) and one record a stored tile, appended after the tile's bytes,
with their checksum and its own. `<OUT>.pieces` is a file of equal slots that hold the pieces of
incomplete tiles as they are before encoding, because a level made from decoded JPEG would differ
from one made without interruption. A slot is used again once the tile above is recorded. Every
stored tile is recorded with its piece at once, however soon the tile above may follow: a producer
that pauses after a burst would otherwise leave the burst unrecorded, and keeping a piece costs a
twenty-fifth of encoding its tile. `<OUT>.lock` keeps a second run out, see `wsisr.locks.lock_file`.

What is durable when: after `kill -9` every tile that a worker has finished is there, for the page
cache outlives the process; those in the workers' hands or queue are lost. Against power loss, the
data, the pieces and the journal are flushed to the disk in the background every five seconds, or
sooner after 16 MB or when 64 slots wait to be used again; slots that stand for more than one tile
wait for that flush, so a power loss costs the tiles since the last one and no more. A resume checks
every checksum, and takes nothing on trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsisr.files import AppendFile, remove
from wsisr.locks import lock_file
from wsisr.pyramid.levels import TileAddress
from wsisr.pyramid.records import (
    BLANK_PIECE,
    Record,
    checksum,
    journal_path,
    lock_path,
    pack_header,
    pack_record,
    pieces_path,
)

FLUSH_SECONDS = 5.0
FLUSH_SLOTS = 64
FLUSH_BYTES = 16 << 20

Piece = tuple[TileAddress, NDArray[np.uint8] | None]
"""A tile and what it gives to the tile above; None for pure background."""


class TileLog(Protocol):
    """What the streaming writer tells of each step; called by one thread at a time."""

    def commit(
        self, records: list[Record], piece: Piece | None, used: Iterable[TileAddress]
    ) -> None:
        """Notes stored tiles.

        Args:
            records: the stored tiles.
            piece: what the last of them gives to the tile above, to be kept until that is stored.
            used: the tiles whose kept pieces are needed no longer.
        """
        ...

    def stop(self) -> None:
        """Touches the output's files no more; nothing is committed afterwards."""
        ...

    def close(self) -> None:
        """Makes all durable, closes and keeps the files."""
        ...

    def discard(self) -> None:
        """Closes and removes the files."""
        ...


class NoJournal:
    """The `TileLog` of an output that cannot be resumed."""

    def commit(
        self, records: list[Record], piece: Piece | None, used: Iterable[TileAddress]
    ) -> None:
        """Notes nothing."""

    def stop(self) -> None:
        """Has nothing in the background to stop."""

    def close(self) -> None:
        """Has nothing to close."""

    def discard(self) -> None:
        """Has nothing to remove."""


class Journal:
    """The `TileLog` of a resumable output."""

    def __init__(
        self,
        out: Path,
        header: dict[str, Any],
        slot_bytes: int,
        flush_data: Callable[[], None],
        lock: ExitStack,
        *,
        kept: int = 0,
        slots: dict[TileAddress, int] | None = None,
    ) -> None:
        """Opens the files of the journal.

        Args:
            out: the output, for names and errors.
            header: what `describe_run` says of this run.
            slot_bytes: size of the largest piece.
            flush_data: makes the tiles written so far durable.
            lock: holds the lock of the output; it is closed with the journal.
            kept: bytes of an existing journal to go on from, 0 to start a new one.
            slots: piece slots that are in use, by tile.

        Raises:
            OutputError: a file cannot be opened or written.
        """
        self._slot_bytes = slot_bytes
        self._flush_data = flush_data
        self._slots = dict(slots or {})
        self._slot_count = 1 + max(self._slots.values(), default=-1)
        taken = set(self._slots.values())
        self._free = [slot for slot in range(self._slot_count) if slot not in taken]
        self._retired: list[int] = []
        self._unflushed = 0
        self._free_lock = Lock()
        self._pieces = AppendFile(
            pieces_path(out), shown=out, size=self._slot_count * slot_bytes if kept else 0
        )
        self._file = AppendFile(journal_path(out), shown=out, size=kept)
        if not kept:
            self._file.append(pack_header(header))
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="wsisr-flush")
        self._flushing: Future[None] | None = None
        self._flushed_at = time.monotonic()
        self._lock = lock

    def commit(
        self, records: list[Record], piece: Piece | None, used: Iterable[TileAddress]
    ) -> None:
        """Notes stored tiles in one write, so that only power loss tears a chain of them."""
        if piece is not None:
            slot, piece_checksum = self._keep(*piece)
            records[-1] = records[-1]._replace(slot=slot, piece_checksum=piece_checksum)
        position, packed = self._file.end, b""
        for record in records:
            packed += pack_record(record, position + len(packed))
            self._unflushed += record.length
        self._file.append(packed)
        # only now, for until the records stand the old pieces are what a resume needs
        for address in used:
            self._release(address)
        self._flush_if_due()

    def _keep(self, address: TileAddress, piece: NDArray[np.uint8] | None) -> tuple[int, int]:
        if piece is None:
            return BLANK_PIECE, 0
        data = piece.reshape(-1).data
        with self._free_lock:
            slot = self._free.pop() if self._free else self._slot_count
            self._slot_count = max(self._slot_count, slot + 1)
        self._slots[address] = slot
        self._pieces.overwrite(slot * self._slot_bytes, data)
        return slot, checksum(data)

    def _release(self, address: TileAddress) -> None:
        slot = self._slots.pop(address, None)
        if slot is None:
            return
        if address[0] == 0:
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

    def stop(self) -> None:
        """Waits for the flush that is under way, and starts no other."""
        self._flusher.shutdown(wait=True)

    def close(self) -> None:
        """Makes all durable, closes and keeps the files, and lets other runs in."""
        with self._lock:
            try:
                self.stop()
                self._flush([])
            finally:
                self._close_files()

    def discard(self) -> None:
        """Closes and removes the files, and lets other runs in."""
        with self._lock:
            self.stop()
            self._close_files()
            remove(self._pieces.path)
            remove(self._file.path)

    def _close_files(self) -> None:
        self._pieces.close()
        self._file.close()


def lock_output(out: Path) -> AbstractContextManager[None]:
    """Gives the lock that keeps a second run from writing into the same output.

    Args:
        out: the output.

    Returns:
        A context manager; entering it ends in an OutputError where another run holds the lock.
    """
    return lock_file(lock_path(out), shown=out)
