"""Three hundred slides by one command: nothing grows with their number."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.engine.support import tissue_like
from tests.processes import Run
from wsisr.cli import cli

SLIDES = 300
WARM = 20
LARGEST_GROWTH = 1.05


@dataclass(frozen=True)
class Held:
    """What a command and its workers hold.

    Attributes:
        rss: resident bytes, those of the parent first, then of each worker.
        files: open files of all of them.
        shared: files of shared memory on the machine that this command made.
    """

    rss: tuple[int, ...]
    files: int
    shared: int


def shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


def held_by(command: psutil.Process, before: set[str]) -> Held:
    everyone = [command, *sorted(command.children(recursive=True), key=lambda each: each.pid)]
    return Held(
        rss=tuple(each.memory_info().rss for each in everyone),
        files=sum(each.num_fds() for each in everyone),
        shared=len(shared_memory() - before),
    )


def finished(out: Path) -> int:
    return len(list(out.glob("*.ome.tif")))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="shared memory is a folder on Linux only")
@pytest.mark.skipif("batch" not in cli.commands, reason="there is no command for cohorts")
def test_nothing_grows_over_many_slides(tmp_path: Path) -> None:
    slides, out = tmp_path / "slides", tmp_path / "out"
    slides.mkdir()
    for number in range(SLIDES):
        Image.fromarray(tissue_like(160, 120, number)).save(slides / f"{number:03d}.png")
    before = shared_memory()
    started = Run(
        "batch", slides, "--out", out, "--workers", 2, "--scale", 2, "--input-mpp", 1.0,
        "--model", "bicubic", "--window", 128, "--overlap", 32, "--device", "cpu",
    )  # fmt: skip
    command = psutil.Process(started.pid)
    after_warm: list[Held] = []
    at_end: list[Held] = []
    while started.poll() is None:
        time.sleep(0.2)
        done = finished(out) if out.is_dir() else 0
        sample = (
            after_warm if WARM <= done < 2 * WARM else at_end if done >= SLIDES - WARM else None
        )
        try:
            if sample is not None:
                sample.append(held_by(command, before))
        except psutil.NoSuchProcess:
            continue
    ended = started.wait()
    assert ended.returncode == 0, ended.stderr
    assert finished(out) == SLIDES
    assert after_warm
    assert at_end
    # each of several samples may catch a slide in the making, so the largest are compared
    first, last = (max(sum(held.rss) for held in sample) for sample in (after_warm, at_end))
    assert last / first <= LARGEST_GROWTH
    for count in ("files", "shared"):
        most = [max(getattr(held, count) for held in sample) for sample in (after_warm, at_end)]
        assert most[1] <= most[0], count
    assert shared_memory() <= before
