"""Stages that run beside each other: a bounded queue between threads, with one way to cancel."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import psutil

from wsisr.closing import Closing

T = TypeVar("T")
POLL_SECONDS = 0.1


class Prefetch(Closing, Generic[T]):
    """Runs an iterable in a thread of its own, at most `depth` items ahead of the consumer.

    An error of the iterable surfaces at the consumer's next step. Leaving the context stops the
    thread: it ends at its next item, even when the queue is full. A chain of them is cancelled by
    leaving their contexts from the consumer's end.

    Memory: `depth` items in the queue and one in the hands of either side.

    Args:
        source: what is run.
        depth: items that wait at most.
        name: of the thread.
    """

    def __init__(self, source: Iterable[T], depth: int, name: str) -> None:
        self._source = source
        self._queue: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._put((True, item)):
                    return
            self._put((False, None))
        except BaseException as error:  # handed to the consumer, which raises it
            self._put((False, error))

    def _put(self, entry: tuple[bool, T | BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                # with a timeout, so that Ctrl-C and close() reach a waiting consumer
                more, item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self._stop.is_set():
                    return
                continue
            if more:
                yield item  # type: ignore[misc]
            elif item is None:
                return
            else:
                raise item  # type: ignore[misc]

    def close(self) -> None:
        """Stops the thread and waits for the item it is working on."""
        self._stop.set()
        self._thread.join()


class Stopwatch:
    """Seconds that each named stage was busy; stages may run in different threads.

    Attributes:
        started: when the stopwatch was made, by `time.monotonic`.
        seconds: stage -> seconds.
    """

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Counts the time of the block under `stage`; one thread a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start


def peak_rss_mb() -> float:
    """Gives the largest resident set of this process so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        memory = psutil.Process().memory_info()
        return round(float(getattr(memory, "peak_wset", memory.rss)) / 1e6, 1)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kilobytes
    return round(usage / (1e6 if sys.platform == "darwin" else 1e3), 1)
