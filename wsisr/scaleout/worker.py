"""A process that computes windows on one device.

It loads the model itself, so that the parent never touches CUDA, and ends when its parent does.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch

from wsisr.engine import Run, Runner, WindowGeometry, default_batch, window_model
from wsisr.errors import ModelError, WsisrError
from wsisr.models import Upscaler
from wsisr.plan import Plan, Window
from wsisr.scaleout.signals import receive_signals
from wsisr.scaleout.slots import Slots

LAUNCHER_VARIABLES = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
)
"""By these accelerate knows a process of a group; a worker is none, whatever started its parent."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A window to compute.

    Attributes:
        slot: where its pixels are and its image goes.
        window: its place.
        rows: rows of low-resolution pixels.
        columns: columns of them.
    """

    slot: int
    window: Window
    rows: int
    columns: int


@dataclass(frozen=True)
class Ready:
    """A worker has its model and waits for windows, or has less room for them than before.

    Attributes:
        batch: windows that it computes at once.
        device: what computes them, for people.
    """

    batch: int
    device: str


@dataclass(frozen=True)
class Done:
    """Some windows are computed.

    Attributes:
        slots: where they are, in the order they were asked for.
        has_deviation: whether there are maps beside the images.
        busy_seconds: how long the device computed them.
    """

    slots: tuple[int, ...]
    has_deviation: bool
    busy_seconds: float


@dataclass(frozen=True)
class Failed:
    """A worker cannot go on, for a reason that would stop every other one as well.

    Attributes:
        error: what the run ends with.
    """

    error: WsisrError


@dataclass(frozen=True)
class Broken:
    """A worker cannot go on, for a reason that may be its own: another one is to try.

    Attributes:
        reason: in a few words.
    """

    reason: str


Message = Ready | Done | Failed | Broken | logging.LogRecord


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to begin.

    Attributes:
        run: the run it computes windows of.
        plan: the windows that come.
        device: where it computes.
        threads: CPU threads it may use.
        slots: where pixels go to and fro.
        log_level: of what it says, all of which goes to the parent.
    """

    run: Run
    plan: Plan
    device: torch.device
    threads: int
    slots: Slots
    log_level: int = logging.WARNING


class Parent:
    """The way to the process that started this one, for any thread.

    Args:
        connection: to it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: Message) -> None:
        """Sends a message."""
        with self._lock:
            self._connection.send(message)

    def receive(self) -> Sequence[Task] | None:
        """Waits for windows to compute; None is the end of them."""
        tasks: Sequence[Task] | None = self._connection.recv()
        return tasks


class ToParent(logging.handlers.QueueHandler):
    """Hands what is logged to the parent, which shows or keeps it.

    Args:
        parent: gets the records.
    """

    def __init__(self, parent: Parent) -> None:
        super().__init__(cast(Any, parent))

    def enqueue(self, record: logging.LogRecord) -> None:
        """Sends a record, which has its text and no objects any more."""
        cast(Parent, self.queue).send(record)


def work(setup: WorkerSetup, connection: Connection) -> None:
    """Computes the windows that a connection asks for, until it says None or is closed."""
    # Ctrl-C reaches the whole group of processes; the parent decides what to do about it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    receive_signals()
    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(setup.threads)
    parent = Parent(connection)
    logging.basicConfig(handlers=[ToParent(parent)], level=setup.log_level, force=True)
    try:
        _serve(setup, parent)
    except WsisrError as error:
        parent.send(Failed(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone
    except Exception as error:  # of this device, driver or process: others may do better
        log.debug("worker on %s", setup.device, exc_info=True)
        text = next(iter(str(error).splitlines()), "")
        parent.send(Broken(f"failed ({type(error).__name__}: {text})"))


def end_with_parent() -> None:
    """Ends this process as soon as its parent is gone, whatever it is doing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def settle(device: torch.device) -> None:
    """Makes a device this process's own, for torch and accelerate, without a group of processes."""
    from accelerate import PartialState

    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    PartialState(cpu=device.type == "cpu")


def _serve(setup: WorkerSetup, parent: Parent) -> None:
    settle(setup.device)
    run = setup.run
    model = replace(run.model, device=str(setup.device)).load()
    geometry = WindowGeometry(setup.plan)
    name = describe_device(model)
    batch = run.job.batch or default_batch(model.device)
    with Runner(window_model(run, model), model.device, batch) as runner:
        parent.send(Ready(runner.batch, name))
        while tasks := parent.receive():
            told = runner.batch
            done = _compute(runner, geometry, setup.slots, tasks)
            if runner.batch != told:
                parent.send(Ready(runner.batch, name))
            parent.send(done)


def describe_device(model: Upscaler) -> str:
    """Names the device of a model, and says where its weights are if not there."""
    device = model.device
    name = str(device)
    if device.type == "cuda":
        name += f" ({torch.cuda.get_device_name(device)})"
    is_offloaded = getattr(model, "placement", "device") == "offload"
    return f"{name}, weights in main memory" if is_offloaded else name


def _compute(runner: Runner, geometry: WindowGeometry, slots: Slots, tasks: Sequence[Task]) -> Done:
    began = runner.busy_seconds
    windows = [
        geometry.model_input(task.window, slots.input(task.slot, task.rows, task.columns))
        for task in tasks
    ]
    images = runner(windows)
    if len(images) != len(tasks):
        raise ModelError(f"the model gave {len(images)} images for {len(tasks)} windows")
    for task, image in zip(tasks, images, strict=True):
        slot = torch.from_numpy(slots.image(task.slot))
        slot.copy_(torch.as_tensor(image.pixels))
        if image.deviation is not None:
            slots.deviation(task.slot)[...] = image.deviation
    names = tuple(task.slot for task in tasks)
    return Done(names, images[0].deviation is not None, runner.busy_seconds - began)
