"""A real slide and the shipped model: one digest, however the work is shared and interrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.processes import Run
from wsisr.engine import Job, compute_band, part_path, prepare, split_rows, upscale
from wsisr.plan import Rect
from wsisr.scaleout import WorkerPool, pool, pool_opener
from wsisr.scaleout.cluster import upscale_on

CPU = torch.device("cpu")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked")]
SIDE = 200


@pytest.fixture(scope="module")
def wanted(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(
        data_dir / "slides" / "test_b_10x.tif",
        tmp_path_factory.mktemp("same") / "out.ome.tif",
        scale=4,
        region=Rect(400, 400, SIDE, SIDE),
        window=256,
        overlap=64,
        tile=128,
        compression="deflate",
        settings={"precision": "fp32"},
        tissue="off",
        device="cpu",
        overwrite=True,
    )


@pytest.fixture(scope="module")
def digest(wanted: Job) -> str:
    found = upscale(replace(wanted, output=wanted.output.with_name("whole.ome.tif"))).sha256_pixels
    assert found is not None
    return found


@pytest.fixture
def ours(wanted: Job) -> Iterator[Job]:
    yield wanted
    for path in wanted.output.parent.glob("out.ome.tif*"):
        assert path == wanted.output
        path.unlink()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers(ours: Job, digest: str, workers: int) -> None:
    assert upscale(ours, open_executor=pool_opener([CPU] * workers)).sha256_pixels == digest


def test_a_worker_that_is_killed(ours: Job, digest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[WorkerPool] = []
    start = WorkerPool.__init__

    def note(self: WorkerPool, *arguments: object, **options: object) -> None:
        start(self, *arguments, **options)  # type: ignore[arg-type]
        pools.append(self)

    monkeypatch.setattr(pool.WorkerPool, "__init__", note)
    killed: list[int] = []

    def kill(state: object) -> None:
        if not killed:
            process = pools[0]._workers[0].process
            os.kill(process.pid, signal.SIGKILL)
            killed.append(process.pid)

    result = upscale(ours, kill, open_executor=pool_opener([CPU, CPU]))
    assert killed
    assert result.sha256_pixels == digest


def test_bands(ours: Job, digest: str) -> None:
    run = prepare(ours)
    parts = []
    for rows in split_rows(run, 3):
        parts.append(part_path(ours.output, rows))
        compute_band(run, rows, parts[-1])
    result = upscale(ours, parts=parts)
    assert result.windows == 0
    assert result.sha256_pixels == digest
    for path in sorted(parts[0].parent.iterdir()):
        path.unlink()
    parts[0].parent.rmdir()


def test_a_cluster(ours: Job, digest: str) -> None:
    assert upscale_on("local", ours).sha256_pixels == digest


def test_a_run_that_is_killed_and_goes_on_with_other_workers(ours: Job, digest: str) -> None:
    arguments = [
        "upscale", ours.source, ours.output, "--scale", 4, "--region", f"400,400,{SIDE},{SIDE}",
        "--window", 256, "--overlap", 64, "--tile", 128, "--compression", "deflate",
        "--precision", "fp32", "--tissue", "off", "--device", "cpu", "--json",
    ]  # fmt: skip
    command = Run(*arguments, "--workers", 2)
    partial = ours.output.with_name("out.ome.tif.partial")
    end = time.monotonic() + 240
    while not partial.exists() or partial.stat().st_size < 100_000:
        assert command.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    command.send_signal(signal.SIGKILL)
    command.wait()
    ended = Run(*arguments, "--workers", 1).wait()
    result = json.loads(ended.stdout)
    assert result["resumed_tiles"] > 0
    assert result["sha256_pixels"] == digest
