"""Writes a pyramid as a stream: tiles in, encoded in threads, levels built on the way.

One call of `write_tile` hands a tile to a worker, which encodes and stores it, halves it, and,
where that completes the tile above, goes on with that one. At most `3 * threads` tiles are held
at a time (`write_tile` waits for room), beside the pieces that `wsisr.pyramid.levels` describes.
The output is complete in the end, or it is absent.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError, UsageError
from wsisr.pyramid.journal import TileLog
from wsisr.pyramid.levels import (
    BLANK,
    EMPTY,
    STORED,
    PieceStore,
    TileAddress,
    TileIndex,
    address_above,
    assemble,
)
from wsisr.pyramid.records import Record, checksum
from wsisr.pyramid.resume import Restored, SoundTile
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec
from wsisr.pyramid.workers import TileWork, Workers
from wsisr.resize import halve


class PyramidWriter(Protocol):
    """Takes the level-0 tiles of a pyramid in any order, each once, from one thread.

    As a context manager it aborts when left before `finish()`. After any error but a UsageError
    the writer is aborted already.

    Attributes:
        spec: the pyramid that is written.
    """

    spec: PyramidSpec

    @property
    def busy_seconds(self) -> float:
        """How long the workers were encoding, halving and storing, added over all of them."""
        ...

    def write_tile(self, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a tile; waits while the queue is full.

        Args:
            row: row of the tile in the grid of level 0.
            col: column of the tile in the grid of level 0.
            pixels: uint8 of `spec.tile_shape(0, row, col)` and `spec.samples`, which must not be
                changed afterwards.

        Raises:
            UsageError: the place or the shape is wrong, or the tile was given before.
            OutputError: this tile or an earlier one could not be stored.
        """
        ...

    def write_encoded(self, row: int, col: int, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """Takes a tile as it is to be stored, and decoded for the levels above.

        Args:
            row: row of the tile in the grid of level 0.
            col: column of the tile in the grid of level 0.
            data: the stored bytes, of the codec, size and colour model that the spec asks for;
                that is not checked.
            pixels: what the bytes decode to, as in `write_tile`.

        Raises:
            UsageError: as in `write_tile`.
            OutputError: as in `write_tile`.
        """
        ...

    def write_blank(self, row: int, col: int) -> None:
        """Takes a tile of pure background; all such tiles share one encoded tile.

        Args:
            row: row of the tile in the grid of level 0.
            col: column of the tile in the grid of level 0.

        Raises:
            UsageError: as in `write_tile`.
            OutputError: as in `write_tile`.
        """
        ...

    def adopt(self, tile: SoundTile) -> None:
        """Takes a tile of any level as a part has stored it; one that is there already is left.

        Args:
            tile: the tile; whatever the part has of the levels above it was adopted before.

        Raises:
            OutputError: it could not be stored.
        """
        ...

    def done(self, row: int, col: int) -> bool:
        """Tells whether a tile was given, now or before the interruption that is gone on from.

        Args:
            row: row of the tile in the grid of level 0.
            col: column of the tile in the grid of level 0.
        """
        ...

    def finish(self, provenance: Mapping[str, Any] | None = None) -> None:
        """Completes the output and gives it its name.

        Args:
            provenance: the final record of what made the pixels, where the run learnt more than
                the spec knew; None stores the spec's. The journal is not concerned: a run is
                resumed by its fingerprint.

        Raises:
            OutputError: a tile is missing, or the disk refused.
        """
        ...

    def leave(self) -> None:
        """Stops with what was written kept, for a later run to go on from.

        Raises:
            OutputError: a tile could not be stored.
        """
        ...

    def abort(self, keep: bool) -> None:
        """Stops the workers; a second call, or one after `finish()`, does nothing.

        Args:
            keep: keep what was written for a later resume; otherwise it is removed.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class StreamWriter:
    """The `PyramidWriter` of every format; what differs is in the `TileSink`."""

    def __init__(
        self, spec: PyramidSpec, sink: TileSink, log: TileLog, *, threads: int, keep: bool
    ) -> None:
        """Starts the workers.

        Args:
            spec: the pyramid.
            sink: the partial output.
            log: notes what is stored.
            threads: how many workers encode.
            keep: what is written so far outlives an error, for `log` can tell a later run of it.
        """
        self.spec = spec
        self._sink = sink
        self._log = log
        self._keep = keep
        self._index = TileIndex(spec)
        self._pieces = PieceStore(spec)
        self._top = len(spec.levels) - 1
        self._given = np.zeros(spec.grid(0), bool)
        self._lock = threading.Lock()
        self._pool = Workers(threads, self._work)
        self._failure: BaseException | None = None
        self._open = True

    @property
    def busy_seconds(self) -> float:
        """How long the workers were at work, added over all of them."""
        return self._pool.busy_seconds

    def restore(self, restored: Restored) -> None:
        """Goes on from an interrupted run, before the first tile."""
        for address, record in restored.records.items():
            self._index.put(address, record.state, record.offset, record.length)
        self._given |= self._index.state[0] != EMPTY
        self._sink.restore(self._index)
        for address, piece in restored.pieces.items():
            pieces = self._pieces.add(address, piece)
            if pieces is not None:
                above = address_above(address)
                self._climb(above, assemble(self.spec, above, pieces), used=list(pieces))

    def adopt(self, tile: SoundTile) -> None:
        """Takes a tile as a part has stored it: neither decoded nor encoded."""
        address = tile.record.address
        above = address_above(address)
        with self._lock:
            if self._index.has(address):
                return
            record = self._store(address, None if tile.record.state == BLANK else tile.data)
            if address[0] == 0:
                self._given[address[1:]] = True
            if not tile.waits or self._index.has(above):
                self._log.commit([record], None, [])
                return
            self._log.commit([record], (address, tile.piece), [])
            pieces = self._pieces.add(address, tile.piece)
        if pieces is not None:
            self._climb(above, assemble(self.spec, above, pieces), used=list(pieces))

    def write_tile(self, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """Takes a tile; waits while the queue is full."""
        self._give(row, col, pixels, None)

    def write_encoded(self, row: int, col: int, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """Takes a tile as it is to be stored, and decoded for the levels above."""
        self._give(row, col, pixels, data)

    def _give(self, row: int, col: int, pixels: NDArray[np.uint8], data: bytes | None) -> None:
        self._claim(row, col)
        expected = (*self.spec.tile_shape(0, row, col), self.spec.samples)
        if pixels.shape != expected or pixels.dtype != np.uint8:
            raise UsageError(
                f"tile ({row}, {col}) is {pixels.dtype} {pixels.shape}; give uint8 {expected}"
            )
        self._submit((0, row, col), pixels, data)

    def write_blank(self, row: int, col: int) -> None:
        """Takes a tile of pure background."""
        self._claim(row, col)
        self._submit((0, row, col), None, None)

    def done(self, row: int, col: int) -> bool:
        """Tells whether a tile was given, now or before the interruption."""
        return bool(self._given[row, col])

    def finish(self, provenance: Mapping[str, Any] | None = None) -> None:
        """Completes the output and gives it its name."""
        self._check_open()
        self._pool.join()
        self._raise_failure()
        missing = int(np.count_nonzero(~self._given))
        if missing:
            self.abort(self._keep)
            raise OutputError(f"{missing} of {self._given.size} tiles were not written")
        try:
            self._log.stop()
            self._sink.finish(
                self._index, self.spec.provenance if provenance is None else provenance
            )
        except BaseException:
            self.abort(self._keep)
            raise
        self._open = False
        self._log.discard()

    def leave(self) -> None:
        """Stops with what was written kept."""
        self._check_open()
        self._pool.join()
        self._raise_failure()
        self.abort(keep=True)

    def abort(self, keep: bool) -> None:
        """Stops the workers and keeps or removes what was written."""
        if not self._open:
            return
        self._open = False
        if keep:
            # what waits in the queue is worth more than the moment that it takes
            self._pool.join()
        self._failure = self._failure or OutputError("the writer was aborted")
        self._pool.join()
        self._pieces.clear()
        # with nothing stored there is nothing to go on from
        if keep and any(state.any() for state in self._index.state):
            # a full disk may refuse the flush; what it loses is only done again
            with suppress(OutputError):
                self._log.close()
            self._sink.close()
            return
        self._log.stop()
        # the log last: it lets the next run in
        try:
            self._sink.discard()
        finally:
            self._log.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort(self._keep)

    def _claim(self, row: int, col: int) -> None:
        self._check_open()
        self._raise_failure()
        rows, cols = self._given.shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise UsageError(f"tile ({row}, {col}) is outside the grid of {rows} x {cols} tiles")
        if self._given[row, col]:
            raise UsageError(f"tile ({row}, {col}) was given before; give each tile once")

    def _check_open(self) -> None:
        if not self._open:
            raise UsageError("the writer is closed; open another one")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure = self._failure
            self.abort(self._keep)
            raise failure

    def _submit(
        self, address: TileAddress, pixels: NDArray[np.uint8] | None, data: bytes | None
    ) -> None:
        self._pool.submit((address, pixels, data))
        self._given[address[1], address[2]] = True

    def _work(self, tile: TileWork) -> None:
        try:
            self._climb(*tile)
        except BaseException as error:
            # not swallowed: the thread that feeds tiles raises it at its next call
            self._failure = self._failure or error

    def _climb(
        self,
        address: TileAddress,
        pixels: NDArray[np.uint8] | None,
        data: bytes | None = None,
        used: list[TileAddress] | None = None,
    ) -> None:
        """Stores the tile, and every tile above that it completes.

        Their records are written together at the end: until then none counts, so an interruption
        finds either the pieces of a tile or the tile itself.

        Args:
            address: the tile.
            pixels: its pixels, None for background.
            data: its bytes, where it is encoded already.
            used: the tiles whose pieces `pixels` was put together from.
        """
        records: list[Record] = []
        used = used or []
        while self._failure is None:
            level, above = address[0], address_above(address)
            if pixels is not None and data is None:
                data = self._sink.encode(pixels)
            piece = None if pixels is None or level == self._top else halve(pixels)
            with self._lock:
                records.append(self._store(address, data))
                if level == self._top or self._index.has(above):
                    self._log.commit(records, None, used)
                    return
                pieces = self._pieces.add(address, piece)
                if pieces is None:
                    self._log.commit(records, (address, piece), used)
                    return
            used.extend(pieces)
            address, pixels, data = above, assemble(self.spec, above, pieces), None

    def _store(self, address: TileAddress, data: bytes | None) -> Record:
        if data is None:
            state, (offset, length, check) = BLANK, self._sink.append_blank(address)
        else:
            state, (offset, length) = STORED, self._sink.append(address, data)
            check = checksum(data)
        self._index.put(address, state, offset, length)
        return Record(address, state, offset, length, check)
