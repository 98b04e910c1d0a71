"""Measures how a slide's windows are shared among devices.

    python -m bench.speed scaleout --slide slides/test_a_40x.tif --json scaleout.json

Two things are measured. Processes on the CPU, one thread each, against one such process with the
same model: both take turns, and the best of each counts. And GPUs that are not there: processes
that sleep for as long as an H200 would compute, with the slide's own tissue map, and with real
reading, blending and encoding in the one process that does those. Without sleep the same run tells
the rate at which that process is the limit.

How long an H200 takes is an assumption and no measurement: a Stable Diffusion-sized model needs
1.1 TFLOP a step and 3.6 TFLOP for the autoencoder on a window of 512 px, and does 350 TFLOP/s in
bf16, half of what matrix products reach.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from bench.command import add_json, add_model, make_parser, report
from bench.speed.clock import one_thread
from wsisr.engine import Executor, Job, OpenExecutor, Result, Run, Stopwatch, upscale
from wsisr.plan import Plan, Rect
from wsisr.scaleout import Done, Ready, WorkerPool, WorkerSetup, work
from wsisr.slides import open_slide

STEP_TFLOP, AUTOENCODER_TFLOP, TFLOP_PER_S = 1.1, 3.6, 350.0
GPU_BATCH = 8
CPU = torch.device("cpu")


def h200_seconds(steps: int) -> float:
    """Returns the seconds that an H200 is assumed to take for a window of 512 px."""
    return (STEP_TFLOP * steps + AUTOENCODER_TFLOP) / TFLOP_PER_S


def sleep_windows(seconds: float, setup: WorkerSetup, connection: Connection) -> None:
    """Stands for a worker: sleeps, and hands back the slots with a ready image in them.

    Args:
        seconds: that a window takes.
        setup: of the worker.
        connection: to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    written: set[int] = set()
    connection.send(Ready(GPU_BATCH, "asleep"))
    try:
        while tasks := connection.recv():
            due = time.monotonic() + seconds * GPU_BATCH
            for task in tasks:
                if task.slot not in written:
                    written.add(task.slot)
                    setup.slots.image(task.slot)[...] = 128.0
            time.sleep(max(0.0, due - time.monotonic()))
            slots = tuple(task.slot for task in tasks)
            connection.send(Done(slots, False, seconds * len(tasks)))
    except (EOFError, ConnectionError):
        pass  # the parent is gone


class Timed:
    """Opens pools and times runs from the moment when every worker is ready.

    Args:
        devices: how many workers.
        batch: windows that each computes at once.
        seconds: that a worker sleeps for a window; None computes it.
    """

    def __init__(self, devices: int, batch: int, seconds: float | None = None) -> None:
        self._devices, self._batch = devices, batch
        self._target = work if seconds is None else partial(sleep_windows, seconds)
        self._ready = 0.0

    def __call__(self, run: Run, plan: Plan, clock: Stopwatch) -> AbstractContextManager[Executor]:
        """Opens a pool; an `OpenExecutor`."""
        devices, target = [CPU] * self._devices, self._target
        pool = WorkerPool(run, plan, devices, clock, batch=self._batch, target=target)
        try:
            pool.wait_until_ready()
        except BaseException:
            pool.close()
            raise
        self._ready = time.monotonic()
        return pool

    def run(self, job: Job) -> tuple[float, Result]:
        """Runs a job: the seconds from when the workers were ready to its end, and its result."""
        opener: OpenExecutor = self
        result = upscale(job, open_executor=opener)
        return time.monotonic() - self._ready, result


def measure_workers(job: Job, workers: int, rounds: int) -> dict[str, float]:
    """Measures processes on the CPU against one of them.

    Args:
        job: on the CPU.
        workers: how many processes.
        rounds: how often both take turns.

    Returns:
        The best time of one over the best of all, and how busy the processes were then.

    Raises:
        RuntimeError: the pixels differ.
    """
    name = f"{workers} workers"
    best: dict[int, tuple[float, Result]] = {}
    with one_thread():
        for _ in range(rounds):
            for count in (1, workers):
                found = Timed(count, 1).run(replace(job, batch=1))
                best[count] = min(best.get(count, found), found, key=lambda each: each[0])
    (alone, one), (together, several) = best[1], best[workers]
    if one.sha256_pixels != several.sha256_pixels:
        raise RuntimeError(f"the pixels of {name} are not those of one")
    return {
        f"{name} vs 1": alone / together,
        f"{name}: MPix/s": several.width * several.height / 1e6 / together,
        f"{name}: busy share": several.device_busy_share,
        "windows": float(several.tissue_windows),
    }


def measure_asleep(job: Job, devices: int, steps: Sequence[int]) -> dict[str, float]:
    """Measures devices that sleep.

    Args:
        job: what is read, blended and encoded.
        devices: how many.
        steps: denoising steps of the models that are assumed.

    Returns:
        For each model the ideal time, that of the windows on tissue alone, over the real one, and
        the rate; and the rate with devices that take no time at all.
    """
    figures = {}
    for count in steps:
        seconds = h200_seconds(count)
        name = f"{devices} devices, {count} steps"
        real, result = Timed(devices, GPU_BATCH, seconds).run(job)
        figures[f"{name}: efficiency"] = seconds * result.tissue_windows / devices / real
        figures[f"{name}: MPix/s"] = result.width * result.height / 1e6 / real
        figures[f"{name}: windows on tissue"] = float(result.tissue_windows)
        figures[f"{name}: s a window"] = seconds
    real, result = Timed(devices, GPU_BATCH, 0.0).run(job)
    figures["limit of the parent: MPix/s"] = result.width * result.height / 1e6 / real
    figures["limit of the parent: windows on tissue/s"] = result.tissue_windows / real
    for stage, busy in result.seconds_by_stage.items():
        figures[f"limit of the parent: {stage}, share of time"] = busy / real
    return figures


def middle(slide: Path, side: int) -> Rect:
    """Returns a square in the middle of a slide, level-0 px."""
    with open_slide(slide) as opened:
        width, height = (min(side, length) for length in (opened.width, opened.height))
        return Rect((opened.width - width) // 2, (opened.height - height) // 2, width, height)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    Raises:
        WsisrError: the slide or the model cannot be used, or a file cannot be written.
    """
    parser = make_parser("bench.speed scaleout", __doc__)
    parser.add_argument("--slide", type=Path, required=True, help="file of the slide")
    parser.add_argument("--scale", type=float, default=8, help="over 1; default: 8")
    add_model(parser)
    parser.add_argument("--workers", type=int, default=2, help="on the CPU, 0 for none; default: 2")
    parser.add_argument("--devices", type=int, default=8, help="asleep, 0 for none; default: 8")
    parser.add_argument(
        "--steps", default="50,4", help="denoising steps of the models assumed; default: 50,4"
    )
    parser.add_argument(
        "--side", type=int, default=232, help="input px that the CPU upscales; default: 232"
    )
    parser.add_argument(
        "--side-asleep", type=int, default=2048, help="the same for sleepers; default: 2048"
    )
    parser.add_argument("--window", type=int, default=512, help="output px; default: 512")
    parser.add_argument("--rounds", type=int, default=3, help="of the CPU; default: 3")
    add_json(parser)
    options = parser.parse_args(arguments)
    figures: dict[str, float] = {"cores": float(os.cpu_count() or 1)}
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            options.slide,
            Path(folder) / "out.ome.tif",
            scale=options.scale,
            window=options.window,
            overlap=options.window // 8,
            device="cpu",
            overwrite=True,
            force=True,
        )
        if options.workers:
            region = middle(options.slide, options.side)
            real = replace(job, model=options.model, region=region, tissue="off")
            figures |= measure_workers(real, options.workers, options.rounds)
        if options.devices:
            region = middle(options.slide, options.side_asleep)
            asleep = replace(job, model="bicubic", region=region)
            steps = [int(part) for part in options.steps.split(",")]
            figures |= measure_asleep(asleep, options.devices, steps)
    report(figures, options.json)
    return 0
