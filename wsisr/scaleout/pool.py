"""An executor over worker processes: windows go out as workers are free and come back in order.

A worker that dies gives its windows to the others and is replaced once; one that is silent for
longer than a bound is ended and counts as dead. When all are dead the run ends with an error, and
its journal lets the same command go on.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import psutil
import torch

from wsisr.closing import Closing
from wsisr.engine import Computed, ReadWindow, Run, Stopwatch
from wsisr.errors import ModelError
from wsisr.plan import Plan
from wsisr.scaleout.signals import signals_held_back
from wsisr.scaleout.slots import SlotLayout, Slots
from wsisr.scaleout.worker import (
    Broken,
    Done,
    Failed,
    Message,
    Ready,
    Task,
    WorkerSetup,
    work,
)

PATIENCE_S = 600.0
"""How long a worker may be silent over windows that it was given, or over loading its model."""
WORK_SHARE = 0.1
"""Share of that time that a silent worker on a CPU must have computed to be taken for alive."""
POLL_S = 0.2
END_S = 10.0
"""How long a killed worker may take to end; the driver of a lost GPU can hold it for ever."""
BATCHES_AHEAD = 2
"""Batches a worker is given at once, so that it never waits for the next."""
SLOTS_A_BATCH = 4
GLASS_AHEAD = 256
"""Finished windows that may wait behind one that is being computed."""

log = logging.getLogger(__name__)
_CONTEXT = multiprocessing.get_context("spawn")


@dataclass
class _Worker:
    """A worker process as the pool sees it.

    Attributes:
        setup: how it was begun.
        process: the process.
        connection: to it.
        batch: windows it computes at once; 0 until it is ready.
        tasks: what it was given and has not returned.
        heard: when it last said something, or was given something while idle.
        cpu_seconds: what the process had computed when it was last looked at.
        is_replacement: whether it took a dead one's place.
    """

    setup: WorkerSetup
    process: Any
    connection: Connection
    batch: int = 0
    tasks: deque[Task] = field(default_factory=deque)
    heard: float = field(default_factory=time.monotonic)
    cpu_seconds: float = 0.0
    is_replacement: bool = False

    @property
    def has_room(self) -> bool:
        """Tells whether it can be given more windows."""
        return self.batch > 0 and len(self.tasks) < BATCHES_AHEAD * self.batch

    @property
    def is_expected(self) -> bool:
        """Tells whether it owes an answer."""
        return self.batch == 0 or bool(self.tasks)

    def is_silent(self, patience_s: float) -> bool:
        """Tells whether it is silent for too long; a window may take a CPU longer than that."""
        now = time.monotonic()
        if not self.is_expected or now - self.heard <= patience_s:
            return False
        before, self.cpu_seconds = self.cpu_seconds, _cpu_seconds(self.process.pid)
        is_at_work = self.cpu_seconds - before > WORK_SHARE * patience_s
        if self.setup.device.type != "cpu" or not is_at_work:
            return True
        self.heard = now
        return False


@dataclass
class _Entry:
    """A window in the order of the plan.

    Attributes:
        item: the window.
        task: its task, None for glass.
        computed: its image, once there is one.
    """

    item: ReadWindow
    task: Task | None = None
    computed: Computed | None = None


class WorkerPool(Closing):
    """An `Executor` over worker processes, one a device.

    Memory: `SLOTS_A_BATCH` slots for each window of each worker's batch, beside the workers' own.

    Args:
        run: says which model computes.
        plan: the windows that come.
        devices: one worker is started on each; a device may stand there twice.
        clock: counts the time that windows are waited for as `model`.
        threads: CPU threads of each worker.
        batch: windows that each worker may compute at once, for the number of slots.
        patience_s: how long a worker may be silent.
        target: what the workers run.

    Raises:
        OptionError: there is not enough memory to share.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        devices: Sequence[torch.device],
        clock: Stopwatch,
        *,
        threads: int = 1,
        batch: int = 1,
        patience_s: float = PATIENCE_S,
        target: Callable[[WorkerSetup, Connection], None] = work,
    ) -> None:
        self.device = torch.device("cpu")
        self.batch = batch * len(devices)
        self.devices = len(devices)
        self.busy_seconds = 0.0
        self._clock, self._patience_s, self._target = clock, patience_s, target
        self._stopped = threading.Event()
        layout = SlotLayout.of_plan(plan, has_maps=run.job.uncertainty is not None)
        self._slots = Slots(layout, SLOTS_A_BATCH * self.batch)
        self._free = deque(range(self._slots.count))
        self._order: deque[_Entry] = deque()
        self._waiting: deque[Task] = deque()
        self._by_slot: dict[int, _Entry] = {}
        self._workers: list[_Worker] = []
        try:
            for device in devices:
                level = logging.getLogger().getEffectiveLevel()
                setup = WorkerSetup(run, plan, device, threads, self._slots, level)
                self._workers.append(self._start(setup))
        except BaseException:
            self.close()
            raise

    def map(self, windows: Iterable[ReadWindow]) -> Iterator[tuple[ReadWindow, Computed]]:
        """Yields every window with its image, in the order they came.

        Raises:
            ModelError: all workers have died, or one says that the model cannot go on.
        """
        source = iter(windows)
        more = True
        while (more or self._order) and not self._stopped.is_set():
            while more and self._has_room():
                item = next(source, None)
                if item is None:
                    more = False
                else:
                    self._add(item)
                    self._hand_out()
            while self._order and self._order[0].computed is not None:
                entry = self._order.popleft()
                yield entry.item, self._taken(entry)
            if self._order and not (more and self._has_room()):
                self._hand_out(waits=True, ends=not more)
                with self._clock("model"):
                    self._listen()

    def wait_until_ready(self) -> None:
        """Waits until every worker has its model.

        Raises:
            ModelError: see `map`.
        """
        while not all(worker.batch for worker in self._workers):
            self._listen()

    def stop(self) -> None:
        """See `Executor`."""
        self._stopped.set()

    def _has_room(self) -> bool:
        return bool(self._free) and len(self._order) < self._slots.count + GLASS_AHEAD

    def _add(self, item: ReadWindow) -> None:
        entry = _Entry(item)
        self._order.append(entry)
        if item.glass is not None:
            entry.computed = Computed(item.glass)
            return
        assert item.lr is not None
        rows, columns = item.lr.shape[:2]
        task = Task(self._free.popleft(), item.window, rows, columns)
        self._slots.input(task.slot, rows, columns)[...] = item.lr
        entry.task = task
        self._by_slot[task.slot] = entry
        self._waiting.append(task)

    def _taken(self, entry: _Entry) -> Computed:
        """Copies an image out of its slot, which is free again then."""
        computed = entry.computed
        assert computed is not None
        if entry.task is None:
            return computed
        deviation = computed.deviation
        copied = Computed(
            computed.pixels.copy(),  # type: ignore[union-attr]
            None if deviation is None else deviation.copy(),
        )
        del self._by_slot[entry.task.slot]
        self._free.append(entry.task.slot)
        return copied

    def _hand_out(self, *, waits: bool = False, ends: bool = False) -> None:
        """Gives waiting windows to workers with room, the least busy first.

        They come in full batches, because a GPU takes as long over a part of one.

        Args:
            waits: no more can be read before a worker answers, so the idle are given what there is.
            ends: no more is to be read at all, so every worker is.
        """
        while self._waiting:
            count = len(self._waiting)
            ready = [
                worker
                for worker in self._workers
                if worker.has_room
                and (count >= worker.batch or ends or (waits and not worker.tasks))
            ]
            if not ready:
                return
            worker = min(ready, key=lambda each: len(each.tasks) / each.batch)
            count = min(worker.batch, len(self._waiting))
            tasks = [self._waiting.popleft() for _ in range(count)]
            if not worker.tasks:
                worker.heard = time.monotonic()
            worker.tasks.extend(tasks)
            try:
                worker.connection.send(tasks)
            except OSError:
                self._bury(worker, "has closed its connection")

    def _listen(self) -> None:
        """Waits for a word of any worker, and for the death of those that are silent."""
        places = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(places), POLL_S):
            worker = places[connection]  # type: ignore[index]
            try:
                self._hear(worker, worker.connection.recv())
            except (EOFError, OSError):
                self._bury(worker, f"ended with exit code {_exit_code(worker)}")
        for worker in list(self._workers):
            if worker.is_silent(self._patience_s):
                self._bury(worker, f"said nothing for {self._patience_s:g} s")

    def _hear(self, worker: _Worker, message: Message) -> None:
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
            return
        worker.heard = time.monotonic()
        if isinstance(message, Failed):
            raise message.error
        if isinstance(message, Broken):
            self._bury(worker, message.reason)
        elif isinstance(message, Ready):
            worker.batch = message.batch
            pid = worker.process.pid
            log.info("worker %d: %s, %d windows at once", pid, message.device, message.batch)
        else:
            self._take(worker, message)

    def _take(self, worker: _Worker, message: Done) -> None:
        self.busy_seconds += message.busy_seconds
        for slot in message.slots:
            worker.tasks.popleft()
            deviation = self._slots.deviation(slot) if message.has_deviation else None
            self._by_slot[slot].computed = Computed(self._slots.image(slot), deviation)

    def _bury(self, worker: _Worker, reason: str) -> None:
        """Ends a worker, gives its windows back, and starts another in its place, once."""
        device, pid = worker.setup.device, worker.process.pid
        self._workers.remove(worker)
        _end(worker)
        self._waiting.extendleft(reversed(worker.tasks))
        if worker.is_replacement:
            log.warning("worker %d on %s %s; it is not replaced again", pid, device, reason)
        else:
            log.warning("worker %d on %s %s; another takes its windows", pid, device, reason)
            fresh = self._start(worker.setup)
            fresh.is_replacement = True
            self._workers.append(fresh)
        if not self._workers:
            raise ModelError(
                f"all workers have died, the last one on {device}: it {reason}; the same command "
                "goes on where this one stopped"
            )

    def _start(self, setup: WorkerSetup) -> _Worker:
        own, other = _CONTEXT.Pipe()
        process = _CONTEXT.Process(
            target=self._target,
            args=(setup, other),
            name=f"wsisr-worker-{setup.device}",
            daemon=True,
        )
        with signals_held_back():
            process.start()
        other.close()  # so that the end of the worker is seen here
        return _Worker(setup, process, own)

    def close(self) -> None:
        """Ends the workers and lets go of the shared memory."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            _end(worker)
        self._workers.clear()
        self._order.clear()
        self._by_slot.clear()
        self._slots.close()


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join(END_S)
    if worker.process.exitcode is None:
        log.warning("worker %d on %s does not end", worker.process.pid, worker.setup.device)
    worker.connection.close()


def _exit_code(worker: _Worker) -> int | None:
    worker.process.join(END_S)
    code: int | None = worker.process.exitcode
    return code


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:  # it has ended
        return 0.0
    return float(times.user + times.system)
