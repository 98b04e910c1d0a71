"""The streaming writer: tiles in, encoded in threads, levels built on the way, complete or absent.

One call of `write_tile` hands a tile to a worker, which encodes and stores it, halves it, and,
where that completes the tile above, goes on with that one. At most `3 * threads` tiles are held
at a time (`write_tile` waits for room), beside the pieces that `wsisr.pyramid.levels` describes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OutputError, UsageError
from wsisr.pyramid.journal import Log, Record, checksum
from wsisr.pyramid.levels import (
    BLANK,
    EMPTY,
    STORED,
    PieceStore,
    Place,
    TileIndex,
    assemble,
)
from wsisr.pyramid.resume import Restored
from wsisr.pyramid.sink import TileSink
from wsisr.pyramid.spec import PyramidSpec
from wsisr.resize import halve


class PyramidWriter(Protocol):
    """Takes the level-0 tiles of a pyramid in any order, each once, from one thread.

    As a context manager it aborts when left before `finish()`. After any error but a UsageError
    the writer is aborted already.
    """

    spec: PyramidSpec

    @property
    def busy_seconds(self) -> float:
        """How long the workers were encoding, halving and storing, added over all of them."""
        ...

    def write_tile(self, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """Give tile (row, col): uint8 of `spec.tile_shape(0, row, col)` and `spec.samples`.

        Waits while the queue is full. The array must not be changed afterwards. An error of an
        earlier tile surfaces here. Raises UsageError (wrong place, shape or a tile given twice)
        and OutputError.
        """
        ...

    def write_encoded(self, row: int, col: int, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """Give tile (row, col) as it is to be stored, and decoded for the levels above.

        data must be of the codec, size and colour model that the spec asks for; it is not checked.
        """
        ...

    def write_blank(self, row: int, col: int) -> None:
        """Give tile (row, col) as pure background; all such tiles share one encoded tile."""
        ...

    def done(self, row: int, col: int) -> bool:
        """Whether the tile was given, now or before the interruption that this writer resumes."""
        ...

    def finish(self) -> None:
        """Complete the output and give it its name. Raises OutputError if a tile is missing."""
        ...

    def abort(self, keep: bool) -> None:
        """Stop the workers and remove what was written, or keep it for a later resume."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


Job = tuple[Place, NDArray[np.uint8] | None, bytes | None]


class Workers:
    """Threads that do `work`, which must not raise; `submit` waits while `3 * count` are pending.

    A thread pool's futures would cost a tenth of the time that a tile takes, and a semaphore
    written in Python a hundredth: room is a queue of tokens.
    """

    def __init__(self, count: int, work: Callable[[Job], None]) -> None:
        self._work = work
        self.busy_seconds = 0.0
        self._counting = threading.Lock()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(3 * count):
            self._room.put(None)
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        # daemons, so that a writer left open cannot keep the interpreter from ending
        self._threads = [
            threading.Thread(target=self._run, name=f"wsisr-encode-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._room.get()
        self._queue.put(job)

    def join(self) -> None:
        """End the threads once the queue is empty; a second time does nothing."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            began = time.perf_counter()
            self._work(job)
            with self._counting:
                self.busy_seconds += time.perf_counter() - began
            self._room.put(None)


class StreamWriter:
    """The `PyramidWriter` of every format; what differs is in the `TileSink`.

    keep: what is written so far outlives an error, for `log` can tell a later run about it.
    """

    def __init__(
        self, spec: PyramidSpec, sink: TileSink, log: Log, *, threads: int, keep: bool
    ) -> None:
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
        """See `PyramidWriter.busy_seconds`."""
        return self._pool.busy_seconds

    def restore(self, restored: Restored) -> None:
        """Go on from an interrupted run, before the first tile."""
        for place, record in restored.records.items():
            self._index.put(place, record.state, record.offset, record.length)
        self._given |= self._index.state[0] != EMPTY
        self._sink.restore(self._index)
        for place, piece in restored.pieces.items():
            pieces = self._pieces.add(place, piece)
            if pieces is not None:
                above = (place[0] + 1, place[1] // 2, place[2] // 2)
                self._climb(above, assemble(self.spec, above, pieces), used=list(pieces))

    def write_tile(self, row: int, col: int, pixels: NDArray[np.uint8]) -> None:
        """See `PyramidWriter.write_tile`."""
        self._give(row, col, pixels, None)

    def write_encoded(self, row: int, col: int, data: bytes, pixels: NDArray[np.uint8]) -> None:
        """See `PyramidWriter.write_encoded`."""
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
        """See `PyramidWriter.write_blank`."""
        self._claim(row, col)
        self._submit((0, row, col), None, None)

    def done(self, row: int, col: int) -> bool:
        """See `PyramidWriter.done`."""
        return bool(self._given[row, col])

    def finish(self) -> None:
        """See `PyramidWriter.finish`."""
        self._check_open()
        self._pool.join()
        self._raise_failure()
        missing = int(np.count_nonzero(~self._given))
        if missing:
            self.abort(self._keep)
            raise OutputError(f"{missing} of {self._given.size} tiles were not written")
        try:
            self._log.settle()
            self._sink.finish(self._index)
        except BaseException:
            self.abort(self._keep)
            raise
        self._open = False
        self._log.discard()

    def abort(self, keep: bool) -> None:
        """See `PyramidWriter.abort`; a second call, or one after `finish()`, does nothing."""
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
        else:
            self._log.discard()
            self._sink.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    def _submit(self, place: Place, pixels: NDArray[np.uint8] | None, data: bytes | None) -> None:
        self._pool.submit((place, pixels, data))
        self._given[place[1], place[2]] = True

    def _work(self, job: Job) -> None:
        try:
            self._climb(*job)
        except BaseException as error:
            # not swallowed: the thread that feeds tiles raises it at its next call
            self._failure = self._failure or error

    def _climb(
        self,
        place: Place,
        pixels: NDArray[np.uint8] | None,
        data: bytes | None = None,
        used: list[Place] | None = None,
    ) -> None:
        """Store the tile, and every tile above that it completes.

        used: the tiles whose pieces `pixels` was put together from.

        Their records are written together at the end: until then none counts, so an interruption
        finds either the pieces of a tile or the tile itself.
        """
        records: list[Record] = []
        used = used or []
        while self._failure is None:
            level, row, col = place
            above = (level + 1, row // 2, col // 2)
            if pixels is not None and data is None:
                data = self._sink.encode(pixels)
            piece = None if pixels is None or level == self._top else halve(pixels)
            with self._lock:
                records.append(self._store(place, data))
                if level == self._top or self._index.has(above):
                    self._log.commit(records, None, used)
                    return
                pieces = self._pieces.add(place, piece)
                if pieces is None:
                    self._log.commit(records, (place, piece), used)
                    return
            used.extend(pieces)
            place, pixels, data = above, assemble(self.spec, above, pieces), None

    def _store(self, place: Place, data: bytes | None) -> Record:
        if data is None:
            state, (offset, length, check) = BLANK, self._sink.append_blank(place)
        else:
            state, (offset, length) = STORED, self._sink.append(place, data)
            check = checksum(data)
        self._index.put(place, state, offset, length)
        return Record(place, state, offset, length, check)
