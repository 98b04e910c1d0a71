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
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import numpy as np
import psutil
import pytest
import tifffile
from PIL import Image

from tests.engine.support import level0, tissue_like
from tests.processes import Run, wsisr
from tests.processes import workers as forked

ROUNDS = int(os.environ.get("WSISR_CHAOS_ROUNDS", "20"))
GOOD = 31
KILLS_EVERY = (0.1, 0.4)
"""Times between kills, in parts of what an undisturbed cohort takes: a few seconds.

On a busy machine no command would come to anything, so a kill also waits for some progress.
"""
MOST_STARTS = 100
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


def everyone(command: Run) -> list[psutil.Process]:
    """Lists the command and its workers, however they were started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(command.pid)
        return [process, *({*process.children(recursive=True), *forked()} - {process})]
    return forked()


def progress(out: Path) -> set[tuple[str, int]]:
    """Tells what is written of the slides, and how much."""
    found = set()
    for path in (*out.glob("*.journal"), *out.glob("*.ome.tif"), *out.glob(".wsisr/*.json")):
        with suppress(OSError):
            found.add((path.name, path.stat().st_size))
    return found


@contextmanager
def killing(
    command: Run, out: Path, dice: random.Random | None = None, duration: float = 0.0
) -> Iterator[list[int]]:
    """Kills the victim's process always, and with dice any process now and then."""
    ended, killed = Event(), list[int]()

    def pause() -> float:
        assert dice is not None
        return duration * dice.uniform(*KILLS_EVERY)

    def kill() -> None:
        due = float("inf") if dice is None else time.monotonic() + pause()
        before = progress(out)
        while not ended.wait(0.02):
            alive = everyone(command)
            for process in alive[1:]:
                with suppress(psutil.Error):
                    names = {Path(file.path).name for file in process.open_files()}
                    if f"{VICTIM}.log" in names:
                        process.kill()
            if time.monotonic() >= due and alive and progress(out) != before:
                assert dice is not None
                due, before = time.monotonic() + pause(), progress(out)
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


@dataclass(frozen=True)
class Undisturbed:
    """What a cohort is when only the victim's process is killed: pixels, and seconds it takes."""

    pixels: dict[str, np.ndarray]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(manifest: Path) -> Undisturbed:
    wsisr("--version")  # so that the imports of the server are not counted
    out, begun = manifest.with_name("undisturbed"), time.monotonic()
    command = run(manifest, out)
    with killing(command, out):
        assert command.wait(600).returncode == 1
    seconds = time.monotonic() - begun
    pixels = {path.name: level0(path) for path in out.glob("good*.ome.tif")}
    assert len(pixels) == GOOD
    source = good(3)
    assert np.array_equal(pixels["good 5.ome.tif"][0, 0], [243] * 3)
    assert pixels["good 3.ome.tif"].shape == (2 * source.shape[0], 2 * source.shape[1], 3)
    return Undisturbed(pixels, seconds)


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
    undisturbed: Undisturbed,
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
        assert starts < MOST_STARTS
        command = run(manifest, out)
        with killing(command, out, dice, undisturbed.seconds) as killed:
            code = command.wait(900).returncode
        kills += len(killed)
    again = run(manifest, out)
    with killing(again, out):
        ended = again.wait(900)
    assert ended.returncode == 1
    rows = {row["id"]: row for row in json.loads(ended.stdout)}
    assert len(rows) == 40
    for name, pixels in undisturbed.pixels.items():
        row = rows[name.removesuffix(".ome.tif")]
        assert row["status"] == "skipped", row
        assert np.array_equal(level0(out / name), pixels), name
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
