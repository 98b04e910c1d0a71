"""Runs the threads that encode and store tiles, behind a queue of bounded length."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from wsisr.pyramid.levels import TileAddress

QUEUED_PER_WORKER = 3

TileWork = tuple[TileAddress, NDArray[np.uint8] | None, bytes | None]
"""A tile, its pixels (None for background) and its bytes, where they are encoded already."""


class Workers:
    """Threads that work on tiles; `submit` waits while three a thread are pending.

    A thread pool's futures would cost a tenth of the time that a tile takes, and a semaphore
    written in Python a hundredth: room is a queue of tokens.

    Attributes:
        busy_seconds: how long the threads were at work, added over all of them.
    """

    def __init__(self, count: int, work: Callable[[TileWork], None]) -> None:
        """Starts the threads.

        Args:
            count: how many threads.
            work: what is done with a tile; it must not raise.
        """
        self._work = work
        self.busy_seconds = 0.0
        self._counting = threading.Lock()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(QUEUED_PER_WORKER * count):
            self._room.put(None)
        self._queue: SimpleQueue[TileWork | None] = SimpleQueue()
        # daemons, so that a writer left open cannot keep the interpreter from ending
        self._threads = [
            threading.Thread(target=self._run, name=f"wsisr-encode-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, tile: TileWork) -> None:
        """Queues a tile; waits while the queue is full."""
        self._room.get()
        self._queue.put(tile)

    def join(self) -> None:
        """Ends the threads once the queue is empty; a second time does nothing."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self) -> None:
        while (tile := self._queue.get()) is not None:
            began = time.perf_counter()
            self._work(tile)
            with self._counting:
                self.busy_seconds += time.perf_counter() - began
            self._room.put(None)
