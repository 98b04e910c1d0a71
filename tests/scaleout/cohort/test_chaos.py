"""A cohort while its processes are killed: what can be made is made, and nothing else is left."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from tests.engine.support import level0, tissue_like
from tests.processes import Run
from tests.processes import workers as forked
from wsisr.engine import Job, upscale

ROUNDS = int(os.environ.get("WSISR_CHAOS_ROUNDS", "20"))
GOOD = 31
KILLS_EVERY_S = (2.0, 6.0)
FORKS = os.environ.get("WSISR_CHAOS_SPAWN") != "1"
"""Spawned workers take so long to start that a round takes minutes; they fare the same."""
VICTIM = "victim"
"""The slide whose process is killed each time, as the system does for want of memory."""
REASONS = {
    "torn": "torn.tif",
    "cut": "cut.tif",
    "no mpp": "records no resolution",
    "text": "is not a slide",
    "empty": "is empty",
    "folder": "is a folder",
    "no region": "region",
    "no level": "level",
    VICTIM: "was killed (signal 9)",
}
SETTINGS = {"scale": 2.0, "model": "bicubic", "window": 64, "overlap": 16}


def good(number: int) -> np.ndarray:
    """Gives a slide: three are large, one is glass alone."""
    size = (1200, 900) if number < 3 else (160 + 12 * number, 130)
    image = tissue_like(*size, number)
    return np.full_like(image, 243) if number == 5 else image


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty slides, good and bad, as a table; two have one name in different folders."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = [("slide", "id", "mpp", "region", "level")]
    for number in range(GOOD):
        path = folder / ("twin/s7.tif" if number == 8 else f"s{number}.tif")
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, good(number), photometric="rgb", tile=(64, 64))
        rows.append((str(path), f"good {number}", "1.0", "", ""))
    whole = (folder / "s1.tif").read_bytes()
    (folder / "torn.tif").write_bytes(whole[:100])
    (folder / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "text.svs").write_text("no slide")
    (folder / "empty.svs").write_bytes(b"")
    (folder / "folder.svs").mkdir()
    Image.fromarray(tissue_like(100, 80)).save(folder / "plain.png")
    (folder / "victim.tif").write_bytes(whole)
    rows += [
        (str(folder / "torn.tif"), "torn", "1.0", "", ""),
        (str(folder / "cut.tif"), "cut", "1.0", "", ""),
        (str(folder / "plain.png"), "no mpp", "", "", ""),
        (str(folder / "text.svs"), "text", "1.0", "", ""),
        (str(folder / "empty.svs"), "empty", "1.0", "", ""),
        (str(folder / "folder.svs"), "folder", "1.0", "", ""),
        (str(folder / "s1.tif"), "no region", "1.0", "9000,0,10,10", ""),
        (str(folder / "s1.tif"), "no level", "", "", "7"),
        (str(folder / "victim.tif"), VICTIM, "1.0", "", ""),
    ]
    assert len(rows) == 41
    path = folder / "cohort.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def expected(manifest: Path) -> dict[str, np.ndarray]:
    """The pixels of undisturbed runs in one process."""
    found = {}
    with manifest.open() as file:
        for row in csv.DictReader(file):
            if row["id"].startswith("good"):
                out = manifest.with_name(f"{row['id']}.ome.tif")
                job = Job(Path(row["slide"]), out, input_mpp=1.0, **SETTINGS)
                upscale(replace(job, compression="deflate"))
                found[row["id"]] = level0(out)
    return found


def everyone(command: Run) -> list[psutil.Process]:
    """Lists the command and its workers, however they were started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(command.pid)
        return [process, *({*process.children(recursive=True), *forked()} - {process})]
    return forked()


@contextmanager
def killing(command: Run, dice: random.Random | None) -> Iterator[list[int]]:
    """Kills the victim's process always, and with dice any process now and then."""
    ended, killed = Event(), list[int]()

    def kill() -> None:
        due = float("inf") if dice is None else time.monotonic() + dice.uniform(*KILLS_EVERY_S)
        while not ended.wait(0.02):
            alive = everyone(command)
            for process in alive[1:]:
                with suppress(psutil.Error):
                    names = {Path(file.path).name for file in process.open_files()}
                    if f"{VICTIM}.log" in names:
                        process.kill()
            if dice is not None and time.monotonic() >= due and alive:
                due = time.monotonic() + dice.uniform(*KILLS_EVERY_S)
                with suppress(psutil.Error):
                    dice.choice(alive).send_signal(signal.SIGKILL)
                    killed.append(1)

    thread = Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def run(manifest: Path, out: Path) -> Run:
    return Run(
        "batch", manifest, "--out", out, "--workers", 4, "--retries", 3, "--scale", 2,
        "--model", "bicubic", "--window", 64, "--overlap", 16, "--compression", "deflate",
        "--device", "cpu", "--json", forks=FORKS,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_cohort_under_chaos(
    manifest: Path,
    expected: dict[str, np.ndarray],
    tmp_path: Path,
    seed: int,
    record_property: Callable[[str, object], None],
) -> None:
    dice, out, before = random.Random(seed), tmp_path / "out", shared_memory()
    kills = starts = 0
    code = -signal.SIGKILL
    # a killed command is given again; a slide that was killed too often gets another chance
    while code != 1 or failed_by_kills(out):
        starts += 1
        assert starts < 60
        command = run(manifest, out)
        with killing(command, dice) as killed:
            code = command.wait(300).returncode
        kills += len(killed)
    undisturbed = run(manifest, out)
    with killing(undisturbed, None):
        ended = undisturbed.wait(300)
    assert ended.returncode == 1
    rows = {row["id"]: row for row in json.loads(ended.stdout)}
    assert len(rows) == 40
    for name, pixels in expected.items():
        assert rows[name]["status"] in ("skipped", "done"), rows[name]
        assert np.array_equal(level0(out / f"{name}.ome.tif"), pixels), name
    for name, reason in REASONS.items():
        assert rows[name]["status"] == "failed"
        assert reason in rows[name]["reason"], rows[name]
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.ome.tif")}
    assert len(made) == GOOD
    left = {path.name for path in out.iterdir()} - {path.name for path in made}
    unfinished = {f"{VICTIM}.ome.tif{end}" for end in (".partial", ".journal", ".pieces", ".lock")}
    reports = {f"report.{kind}" for kind in ("csv", "json", "html")}
    assert left - unfinished == {".wsisr", "logs", *reports}
    assert not [path for path in (out / ".wsisr").iterdir() if path.suffix != ".json"]
    assert shared_memory() <= before
    record_property("starts and kills", (starts, kills))


def failed_by_kills(out: Path) -> list[str]:
    """Names good slides that failed, which only kills can make them do."""
    names = []
    for path in (out / ".wsisr").glob("good*.json"):
        row = json.loads(path.read_text())["row"]
        if row["status"] != "done":
            assert "was killed" in row["reason"], row
            names.append(row["id"])
    return names
