from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.engine.support import job, level0
from tests.processes import Run as Command
from tests.processes import wsisr
from wsisr.engine.executor import open_executor
from wsisr.engine.preparation import Run, open_view, prepare
from wsisr.engine.stream import Stopwatch
from wsisr.engine.windows import ReadWindow, WindowReader
from wsisr.errors import ModelError, OptionError, UsageError
from wsisr.progress import State
from wsisr.scaleout import WorkerPool, choose_devices, slots, upscale, usable_cores
from wsisr.scaleout.slots import NAME
from wsisr.scaleout.worker import Broken, Done, Ready, WorkerSetup, work

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("forked")


@pytest.fixture
def run(slide: Path, model_folder: Path) -> Run:
    return prepare(job(slide, model=str(model_folder), tissue="off", uncertainty=2))


@contextmanager
def pool_of(run: Run, workers: int, **options: object) -> Iterator[WorkerPool]:
    memory = shared_memory()
    with WorkerPool(run, run.plan, [CPU] * workers, Stopwatch(), **options) as pool:  # type: ignore[arg-type]
        started = {worker.process.pid for worker in pool._workers}
        yield pool
        started |= {worker.process.pid for worker in pool._workers}
    assert shared_memory() == memory
    assert not [pid for pid in started if psutil.pid_exists(pid)]


def shared_memory() -> set[str]:
    """The blocks of slots that this process has open."""
    found = set()
    for file in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found |= {
                f"{file.name}: {target}" for target in [str(file.readlink())] if NAME in target
            }
    return found


@contextmanager
def windows_of(run: Run) -> Iterator[Iterator[ReadWindow]]:
    with open_view(run.job) as view:
        reader = WindowReader(run.plan, view, run.tissue)
        yield map(reader.read, run.plan.windows())


def images_of(executor: object, run: Run) -> list[np.ndarray]:
    with windows_of(run) as windows:
        found = list(executor.map(windows))  # type: ignore[attr-defined]
    assert [item.window for item, _ in found] == list(run.plan.windows())
    images = [np.asarray(computed.pixels) for _, computed in found]
    return images + [computed.deviation for _, computed in found]


@pytest.fixture
def expected(run: Run) -> list[np.ndarray]:
    with open_executor(run, run.plan, Stopwatch()) as executor:
        return images_of(executor, run)


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_make_the_images_of_one_process(
    run: Run, expected: list[np.ndarray], workers: int
) -> None:
    with pool_of(run, workers, batch=1 + workers % 2) as pool:
        assert equal(images_of(pool, run), expected)


def test_glass_is_passed_on_in_its_place(slide: Path) -> None:
    run = prepare(job(slide))
    assert run.tissue is not None
    half = run.tissue.mask.copy()
    half[:, : half.shape[1] // 2] = False
    run = replace(run, tissue=replace(run.tissue, mask=half))
    with windows_of(run) as windows:
        assert {item.glass is None for item in windows} == {True, False}
    with open_executor(run, run.plan, Stopwatch()) as executor, windows_of(run) as windows:
        expected = [np.array(c.pixels) for _, c in executor.map(windows)]
    with pool_of(run, 2) as pool, windows_of(run) as windows:
        assert equal([np.array(c.pixels) for _, c in pool.map(windows)], expected)


def test_a_killed_worker_is_replaced_once(
    run: Run, expected: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(run, 2) as pool, windows_of(run) as windows:
        found = []
        for number, pair in enumerate(pool.map(windows)):
            found.append(pair[1])
            if number in (3, 8):
                os.kill(pool._workers[-1].process.pid, signal.SIGKILL)
        assert len(pool._workers) == 1
    images = [np.asarray(c.pixels) for c in found] + [c.deviation for c in found]
    assert equal(images, expected)
    assert "exit code -9" in caplog.text
    assert "not replaced again" in caplog.text


def test_without_workers_the_run_ends(run: Run) -> None:
    def kill_each_worker(pool: WorkerPool, windows: Iterator[ReadWindow]) -> None:
        for _ in pool.map(windows):
            os.kill(pool._workers[0].process.pid, signal.SIGKILL)

    with (
        pool_of(run, 1) as pool,
        windows_of(run) as windows,
        pytest.raises(ModelError, match="all workers have died"),
    ):
        kill_each_worker(pool, windows)


def test_a_silent_worker_counts_as_dead(
    run: Run, expected: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(run, 2) as pool, windows_of(run) as windows:
        found = []
        for number, pair in enumerate(pool.map(windows)):
            found.append(pair[1])
            if number == 3:
                assert all(worker.batch for worker in pool._workers)
                pool._patience_s = 5.0
                os.kill(pool._workers[0].process.pid, signal.SIGSTOP)
            if number == 4:
                pool._patience_s = 60.0 if "said nothing" in caplog.text else 5.0
    images = [np.asarray(c.pixels) for c in found] + [c.deviation for c in found]
    assert equal(images, expected)


def test_a_model_that_cannot_be_loaded_ends_the_run(run: Run, model_folder: Path) -> None:
    next((model_folder / "unet").glob("*.safetensors")).unlink()
    with (
        pool_of(run, 2) as pool,
        windows_of(run) as windows,
        pytest.raises(ModelError, match="safetensors"),
    ):
        list(pool.map(windows))


def test_workers_end_when_their_parent_is_gone(run: Run) -> None:
    with pool_of(run, 1) as pool:
        worker = pool._workers[0]
        deadline = time.monotonic() + 60
        while not worker.batch and time.monotonic() < deadline:
            pool._listen()
        worker.connection.close()
        worker.process.join(20)
        assert worker.process.exitcode == 0


@pytest.mark.parametrize(
    ("gpus", "workers", "device", "option"),
    [
        ("0", None, None, "gpus"),
        ("0", None, "cpu", "gpus"),
        (None, 0, "cpu", "workers"),
        (None, 4096, "cpu", "workers"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    gpus: str | None,
    workers: int | None,
    device: str | None,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(OptionError) as raised:
        choose_devices(gpus, workers, device)
    assert raised.value.option == option


def test_gpus_are_chosen_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsisr.scaleout.devices.may_have_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert choose_devices("all", None, None) == tuple(torch.device("cuda", n) for n in range(4))
    assert choose_devices("2,0", None, None) == (torch.device("cuda", 2), torch.device("cuda", 0))
    assert choose_devices("1", 2, None) == (torch.device("cuda", 1),) * 2
    for wrong in ("4", "0,9", "x", "-1", ""):
        with pytest.raises(OptionError, match="gpus"):
            choose_devices(wrong, None, None)


def test_cores_are_those_that_slurm_allots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert usable_cores() == 1


@pytest.mark.slow
def test_spawned_workers_make_the_same_bytes(
    slide: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsisr.scaleout.pool._CONTEXT", multiprocessing.get_context("spawn"))
    wanted = job(slide, model=str(model_folder), tissue="off", device="cpu")
    hashes = {upscale(replace(wanted, workers=n, overwrite=True)).sha256_pixels for n in (1, 2)}
    assert len(hashes) == 1


def test_a_slide_has_the_same_bytes_whatever_the_workers(slide: Path, model_folder: Path) -> None:
    wanted = job(slide, model=str(model_folder), tissue="off", device="cpu")
    whole = upscale(wanted)
    assert whole.sha256_pixels is not None
    shared = upscale(replace(wanted, workers=2, overwrite=True))
    assert shared.sha256_pixels == whole.sha256_pixels
    with pytest.raises(UsageError, match="workers"):
        upscale(replace(wanted, workers=4096, overwrite=True))


def test_an_interrupted_run_leaves_no_process(slide: Path, model_folder: Path) -> None:
    wanted = job(slide, model=str(model_folder), tissue="off", device="cpu", workers=2)

    class StoppedError(Exception):
        pass

    def stop(state: State) -> None:
        if state.done == 5:
            raise StoppedError

    memory = shared_memory()
    with pytest.raises(StoppedError):
        upscale(wanted, stop)
    assert shared_memory() == memory
    assert not [t for t in threading.enumerate() if t.name in ("read", "model")]
    alone = upscale(replace(wanted, workers=None))
    assert alone.width == 600


def breaks_once(flag: Path, setup: WorkerSetup, connection: Connection) -> None:
    """A worker whose driver fails for the first process that comes to it."""
    try:
        flag.touch(exist_ok=False)
    except FileExistsError:
        work(setup, connection)
    else:
        connection.send(Broken("failed (RuntimeError: device lost)"))


def test_a_broken_worker_is_replaced(
    run: Run, expected: list[np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pool_of(run, 2, target=partial(breaks_once, tmp_path / "flag")) as pool:
        assert equal(images_of(pool, run), expected)
        assert sum(worker.is_replacement for worker in pool._workers) == 1
    assert "device lost" in caplog.text


def shrinks(setup: WorkerSetup, connection: Connection) -> None:
    """A worker that runs short of memory over its first windows, and does one at a time then."""
    connection.send(Ready(4, "roomy"))
    batch = 4
    while tasks := connection.recv():
        assert len(tasks) <= 4
        if batch == 4:
            batch = 1
            connection.send(Ready(batch, "tight"))
        for task in tasks:
            setup.slots.image(task.slot)[...] = len(tasks)
        connection.send(Done(tuple(task.slot for task in tasks), False, 0.0))


def test_a_worker_that_runs_short_of_memory_is_given_less(run: Run) -> None:
    run = replace(run, job=replace(run.job, uncertainty=None))
    with pool_of(run, 1, batch=4, target=shrinks) as pool, windows_of(run) as windows:
        sizes = [int(np.asarray(computed.pixels).flat[0]) for _, computed in pool.map(windows)]
    assert sizes[:4] == [4, 4, 4, 4]
    # what was on its way then still came by fours
    assert set(sizes[3 * 4 :]) == {1}


def test_slots_that_the_memory_cannot_hold_are_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "usable_memory", lambda: 1 << 20)
    with pytest.raises(OptionError, match=r"need .* GB of shared memory"), pool_of(run, 1):
        pass


def test_nothing_is_left_of_a_command_that_is_killed(
    slide: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.ome.tif"
    wanted = (
        "upscale", slide, out, "--model", model_folder, "--tissue", "off", "--workers", 2,
        "--device", "cpu", "--window", 128, "--overlap", 32, "--tile", 64, "--scale", 4,
        "--input-mpp", 1.0, "--compression", "deflate",
    )  # fmt: skip
    command = Command(*wanted)
    parent = psutil.Process(command.pid)
    partial_file = tmp_path / "out.ome.tif.partial"
    while not (partial_file.exists() and partial_file.stat().st_size > 20_000):
        assert command.poll() is None
        time.sleep(0.01)
    workers = parent.children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    command.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
    ended = Command(*wanted).wait()
    assert ended.returncode == 0, ended.stderr
    whole = tmp_path / "whole.ome.tif"
    assert wsisr(*(whole if word is out else word for word in wanted)).returncode == 0
    assert np.array_equal(level0(out), level0(whole))
    assert {path.name for path in tmp_path.glob("*.ome.tif*")} == {out.name, whole.name}
