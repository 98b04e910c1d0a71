"""A process that computes windows on one device.

It loads the model itself, so that the parent never touches CUDA, and ends when its parent does.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch

from wsisr.engine import Run, Runner, WindowGeometry, default_batch, window_model
from wsisr.errors import ModelError, WsisrError
from wsisr.plan import Plan, Window
from wsisr.scaleout.slots import SlotLayout, Slots


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
    """A worker has its model and waits for windows.

    Attributes:
        batch: windows that it computes at once.
    """

    batch: int


@dataclass(frozen=True)
class Done:
    """Some windows are computed.

    Attributes:
        slots: where they are, in the order they were asked for.
        has_deviation: whether there are maps beside the images.
    """

    slots: tuple[int, ...]
    has_deviation: bool


@dataclass(frozen=True)
class Failed:
    """A worker cannot go on, for a reason that would stop every other one as well.

    Attributes:
        error: what the run ends with.
    """

    error: WsisrError


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to begin.

    Attributes:
        run: the run it computes windows of.
        plan: the windows that come.
        device: where it computes.
        threads: CPU threads it may use.
        layout: of the slots.
        slots: how many there are.
        memory: name of their shared memory.
    """

    run: Run
    plan: Plan
    device: torch.device
    threads: int
    layout: SlotLayout
    slots: int
    memory: str


def work(setup: WorkerSetup, connection: Connection) -> None:
    """Computes the windows that a connection asks for, until it says None or is closed."""
    # Ctrl-C reaches the whole group of processes; the parent decides what to do about it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(setup.threads)
    try:
        _serve(setup, connection)
    except WsisrError as error:
        connection.send(Failed(error))
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone


def _serve(setup: WorkerSetup, connection: Connection) -> None:
    run = setup.run
    model = replace(run.model, device=setup.device).load()
    geometry = WindowGeometry(setup.plan)
    slots = Slots(setup.layout, setup.slots, setup.memory)
    batch = run.job.batch or default_batch(model.device)
    try:
        with Runner(window_model(run, model), model.device, batch) as runner:
            connection.send(Ready(runner.batch))
            while tasks := connection.recv():
                connection.send(_compute(runner, geometry, slots, tasks))
    finally:
        slots.close()


def _compute(runner: Runner, geometry: WindowGeometry, slots: Slots, tasks: Sequence[Task]) -> Done:
    windows = [
        geometry.model_input(task.window, slots.input(task.slot, task.rows, task.columns))
        for task in tasks
    ]
    images = runner(windows)
    if len(images) != len(tasks):
        raise ModelError(f"the model gave {len(images)} images for {len(tasks)} windows")
    for task, image in zip(tasks, images, strict=True):
        pixels = (
            image.pixels.cpu().numpy() if isinstance(image.pixels, torch.Tensor) else image.pixels
        )
        slots.image(task.slot)[...] = pixels
        if image.deviation is not None:
            slots.deviation(task.slot)[...] = image.deviation
    return Done(tuple(task.slot for task in tasks), images[0].deviation is not None)
