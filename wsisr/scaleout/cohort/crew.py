"""The processes of this machine as a crew: each computes one slide after the other.

A process is a fresh one for a slide that is tried again, after some slides, and when it has grown.
What it computed can be resumed however it ends, and it ends when its parent does.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

import psutil
import torch

from wsisr.closing import Closing
from wsisr.engine import Job, Result
from wsisr.progress import Progress, State
from wsisr.scaleout.cohort.slide import compute_slide
from wsisr.scaleout.cohort.tasks import Ended, Outcome, SlideTask, Update
from wsisr.scaleout.devices import usable_cores
from wsisr.scaleout.kept import open_kept
from wsisr.scaleout.run import pool_opener
from wsisr.scaleout.signals import receive_signals, signals_held_back
from wsisr.scaleout.worker import end_with_parent

SLIDES_A_PROCESS = 50
LARGEST_GROWTH_BYTES = 1 << 30
"""A process that holds so much more than after its first slide is replaced by a fresh one."""
PATIENCE_S = 1800.0
"""How long a slide may show no progress: large models take minutes a window."""
UPDATE_S = 0.5
ENDING_S = 20.0

log = logging.getLogger(__name__)
_CONTEXT: Any = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class _Order:
    """A slide and the devices that compute it."""

    task: SlideTask
    devices: tuple[torch.device, ...]
    threads: int


@dataclass
class _Place:
    """A device, or a share of the cores, and the process that computes there.

    Attributes:
        device: where its process computes.
        process: None until a slide is started.
        connection: to the process.
        task: the slide that is under way, or that this place was lent to.
        lent: whether another place computes that slide with this one's device.
        heard: when the process last said something.
        slides: how many it has computed.
        first_rss: bytes that it held after its first slide.
    """

    device: torch.device
    process: Any = None
    connection: Connection | None = None
    task: SlideTask | None = None
    lent: bool = False
    heard: float = field(default_factory=time.monotonic)
    slides: int = 0
    first_rss: int = 0


class LocalCrew(Closing):
    """A `Crew` of processes of this machine, one a place.

    Args:
        devices: the device of each place; several places may share one.
        patience_s: how long a slide may show no progress.
    """

    def __init__(self, devices: Sequence[torch.device], patience_s: float = PATIENCE_S) -> None:
        self._places = [_Place(device) for device in devices]
        self._threads = max(1, usable_cores() // len(devices))
        self._patience_s = patience_s

    @property
    def room(self) -> int:
        """See `Crew`."""
        return sum(place.task is None for place in self._places)

    def start(self, task: SlideTask, places: int = 1) -> None:
        """See `Crew`; with several places their devices share the slide's windows."""
        free = [place for place in self._places if place.task is None][:places]
        first = free[0]
        for place in free:
            place.task, place.lent = task, place is not first
            if place.lent:
                # the device is the other process's now
                self._retire(place)
        if first.process is None:
            self._open(first)
        devices = tuple(place.device for place in free)
        first.heard = time.monotonic()
        assert first.connection is not None
        # one that has just died is found by `events`
        with suppress(OSError):
            first.connection.send(_Order(task, devices, self._threads))

    def events(self, timeout_s: float) -> Sequence[Update | Ended]:
        """See `Crew`."""
        busy = {
            place.connection: place
            for place in self._places
            if place.task is not None and not place.lent
        }
        if not busy:
            time.sleep(timeout_s)
            return ()
        found: list[Update | Ended] = []
        for connection in wait(list(busy), timeout_s):  # type: ignore[arg-type]
            found += self._hear(busy[connection])  # type: ignore[index]
        for place in busy.values():
            silent_s = time.monotonic() - place.heard
            if place.task is not None and silent_s > self._patience_s:
                reason = f"showed no progress for {self._patience_s:g} s; see its log"
                found.append(self._bury(place, reason))
        return found

    def _hear(self, place: _Place) -> list[Update | Ended]:
        assert place.connection is not None
        assert place.task is not None
        place.heard = time.monotonic()
        try:
            message: Update | Outcome = place.connection.recv()
        except (EOFError, OSError):
            place.process.join(ENDING_S)
            return [self._bury(place, _reason_of(place.process.exitcode))]
        if isinstance(message, Update):
            return [message]
        name = place.task.id
        self._free(name)
        place.slides += 1
        if message.may_retry or place.slides >= SLIDES_A_PROCESS or _has_grown(place):
            self._retire(place)
        return [Ended(name, message)]

    def _bury(self, place: _Place, reason: str) -> Ended:
        """Gives up a process that died, or that is ended for being silent."""
        assert place.task is not None
        name, seconds = place.task.id, time.monotonic() - place.heard
        log.warning("%s: its process %s", name, reason)
        place.process.kill()
        self._retire(place)
        self._free(name)
        outcome = Outcome(None, f"its process {reason}", True, device=str(place.device))
        return Ended(name, replace(outcome, seconds=seconds))

    def _free(self, name: str) -> None:
        for place in self._places:
            if place.task is not None and place.task.id == name:
                place.task, place.lent = None, False

    def _open(self, place: _Place) -> None:
        own, other = _CONTEXT.Pipe()
        # no daemon, for it may have workers of its own; it ends with its parent nevertheless
        process = _CONTEXT.Process(target=work, args=(other,), name="wsisr-slides")
        with signals_held_back():
            process.start()
            place.process, place.connection = process, own
        other.close()
        place.slides = place.first_rss = 0

    def _retire(self, place: _Place) -> None:
        """Lets a process go; it ends by itself when it is idle, and else is ended."""
        if place.process is None:
            return
        assert place.connection is not None
        process, connection = place.process, place.connection
        place.process = place.connection = None
        connection.close()
        process.join(ENDING_S)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()

    def close(self) -> None:
        """See `Crew`."""
        for place in self._places:
            if place.process is not None and place.task is not None:
                place.process.terminate()
        for place in self._places:
            self._retire(place)
            place.task = None


def work(connection: Connection) -> None:
    """Computes the slides that a connection asks for, until it is closed."""
    # Ctrl-C reaches the whole group of processes; the parent decides what to do about it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    receive_signals()
    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        while True:
            order: _Order = connection.recv()
            torch.set_num_threads(order.threads)
            report = _Reporter(connection, order.task.id)
            outcome = compute_slide(
                order.task, report, _compute_on(order.devices), _names(order.devices)
            )
            connection.send(outcome)
    except (EOFError, OSError, KeyboardInterrupt):
        pass  # wanted no longer


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Reporter:
    """Tells the parent how far a slide is, not too often."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection, self._name, self._told = connection, name, 0.0

    def __call__(self, state: State) -> None:
        now = time.monotonic()
        if now - self._told >= UPDATE_S:
            self._told = now
            self._connection.send(Update(self._name, state.done, state.total))


def _compute_on(devices: tuple[torch.device, ...]) -> Any:
    """Gives what computes a slide on one device in this process, or on several in others."""
    from wsisr.engine import upscale

    opener = open_kept if len(devices) == 1 else pool_opener(devices)

    def compute(job: Job, progress: Progress) -> Result:
        job = replace(job, device=str(devices[0]), gpus=None, workers=None)
        return upscale(job, progress, open_executor=opener)

    return compute


def _names(devices: tuple[torch.device, ...]) -> str:
    counts: Mapping[str, int] = {str(each): devices.count(each) for each in devices}
    return ", ".join(name if count == 1 else f"{count} x {name}" for name, count in counts.items())


def _has_grown(place: _Place) -> bool:
    try:
        rss: int = psutil.Process(place.process.pid).memory_info().rss
    except psutil.NoSuchProcess:
        return True
    place.first_rss = place.first_rss or rss
    return rss > place.first_rss + LARGEST_GROWTH_BYTES


def _reason_of(code: int | None) -> str:
    if code is not None and code < 0:
        why = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"was killed (signal {-code}){why}"
    return f"ended by itself with exit code {code}"
