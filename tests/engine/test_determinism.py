"""One hash, whatever the batch, the order, the processes, the interruption, the regions."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.engine.support import job, level0, tissue_like
from wsisr.engine.blend import CellBlender
from wsisr.engine.executor import InProcess
from wsisr.engine.job import Job
from wsisr.engine.preparation import find_resolution, plan_run
from wsisr.engine.run import upscale
from wsisr.engine.runner import single_sample
from wsisr.engine.stream import Stopwatch
from wsisr.engine.windows import InMemory, WindowReader
from wsisr.models import load_upscaler
from wsisr.plan import Rect
from wsisr.slides import open_slide, select_view

WSISR = (sys.executable, "-m", "wsisr", "upscale")
HALVES = ((0, 41), (41, 59)), ((0, 33), (33, 37))
"""Start and length of regions along x and y: the window grid knows nothing of them."""


@pytest.fixture(params=[False, True], ids=["windows", "joint"])
def wanted(request: pytest.FixtureRequest, tmp_path: Path, model_folder: Path) -> Job:
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, tissue_like(100, 70), photometric="rgb", tile=(64, 64))
    wanted = job(path, model=str(model_folder), tissue="off", input_mpp=1.0)
    return replace(wanted, joint=request.param, overlap=64 if request.param else 32)


def in_order(wanted: Job, order: Sequence[int], batch: int) -> str:
    """The hash of a run whose windows are computed in another order than they are blended in."""
    with open_slide(wanted.source) as slide:
        view = select_view(slide, input_mpp=wanted.input_mpp)
        plan = plan_run(wanted, view, find_resolution(wanted, view).scale)
    source = InMemory(tifffile.imread(wanted.source))
    settings = {"joint": (wanted.window, wanted.overlap)} if wanted.joint else {}
    model = load_upscaler(wanted.model, settings=settings, scale=plan.scale)
    windows = list(plan.windows())
    places = [index % len(windows) for index in order if index < len(windows)]
    reader = WindowReader(plan, source, None)
    reading = (reader.read(windows[i]) for i in places)
    with InProcess(single_sample(model), model.device, batch, Stopwatch()) as executor:
        images = dict(zip(places, executor.map(reading), strict=True))
    blender = CellBlender(plan)
    out = np.zeros((plan.region.height, plan.region.width, 3), np.uint8)
    for index, window in enumerate(windows):
        cell = blender.push(window.row, window.column, images[index][1].pixels)
        assert cell is not None
        height, width = cell.pixels.shape[:2]
        out[cell.y : cell.y + height, cell.x : cell.x + width] = cell.pixels
    return hashlib.sha256(out.tobytes()).hexdigest()


def arguments(wanted: Job, out: Path, *more: object) -> list[str]:
    joint = ["--joint"] if wanted.joint else []
    options = ["--scale", 4, "--input-mpp", 1.0, "--model", wanted.model, "--tissue", "off"]
    options += ["--window", wanted.window, "--overlap", wanted.overlap, "--compression", "deflate"]
    return [*WSISR, *map(str, (wanted.source, out, *options, *joint, *more))]


def in_regions(wanted: Job, processes: int) -> str:
    """The hash of four regions, computed by that many processes of one and two threads."""
    jobs = [
        (Rect(x, y, w, h), wanted.source.with_name(f"{x}-{y}.ome.tif"))
        for y, h in HALVES[1]
        for x, w in HALVES[0]
    ]
    waiting = list(jobs)
    while waiting:
        group, waiting = waiting[:processes], waiting[processes:]
        running = [
            subprocess.Popen(
                arguments(wanted, out, "--region", f"{r.x},{r.y},{r.width},{r.height}"),
                env={**os.environ, "OMP_NUM_THREADS": str(1 + number % 2)},
                stderr=subprocess.DEVNULL,
            )
            for number, (r, out) in enumerate(group)
        ]
        assert all(process.wait() == 0 for process in running)
    whole = np.zeros((280, 400, 3), np.uint8)
    for r, out in jobs:
        whole[r.y * 4 : r.bottom * 4, r.x * 4 : r.right * 4] = level0(out)
        out.unlink()
    return hashlib.sha256(whole.tobytes()).hexdigest()


def killed_and_resumed(wanted: Job) -> str:
    out = wanted.source.with_name("killed.ome.tif")
    process = subprocess.Popen(arguments(wanted, out), stderr=subprocess.DEVNULL)
    partial = out.with_name(out.name + ".partial")
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 1000):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not out.exists():
        done = subprocess.run(
            arguments(wanted, out, "--json"), capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["width"] == 400
    return hashlib.sha256(level0(out).tobytes()).hexdigest()


def test_one_hash_whatever_batch_and_order(wanted: Job) -> None:
    reference = upscale(wanted).sha256_pixels
    assert reference is not None
    many = 64
    shuffled = list(np.random.default_rng(0).permutation(many))
    orders = {"forward": range(many), "backward": range(many)[::-1], "shuffled": shuffled}
    for batch, (name, order) in zip((8, 1, 3), orders.items(), strict=True):
        assert in_order(wanted, order, batch) == reference, (batch, name)
    other = replace(wanted, settings={"seed": 1}, overwrite=True)
    assert upscale(other).sha256_pixels != reference


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_one_hash_over_all_batches_and_orders(wanted: Job, batch: int) -> None:
    reference = upscale(wanted).sha256_pixels
    assert upscale(replace(wanted, batch=batch, overwrite=True)).sha256_pixels == reference
    shuffled = list(np.random.default_rng(0).permutation(64))
    for order in (range(64), range(64)[::-1], shuffled):
        assert in_order(wanted, order, batch) == reference


@pytest.mark.slow
def test_one_hash_whatever_processes_interruption_and_regions(wanted: Job) -> None:
    reference = upscale(wanted).sha256_pixels
    assert in_regions(wanted, 1) == reference
    assert in_regions(wanted, 2) == reference
    assert killed_and_resumed(wanted) == reference
