from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine.conftest import slide
from tests.engine.support import job
from wsisr.engine import upscale
from wsisr.scaleout.cluster import DaskCrew, open_cluster, tasks
from wsisr.scaleout.cohort import Ended, Outcome, SlideTask

distributed = pytest.importorskip("distributed")

__all__ = ["slide"]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


def task(slide: Path, name: str, **changes: object) -> SlideTask:
    wanted = job(slide, output=slide.with_name(f"{name}.ome.tif"), tile=64, **changes)
    return SlideTask(name, wanted, None, slide.with_name(f"{name}.log"))


def outcomes(crew: DaskCrew, count: int) -> dict[str, Outcome]:
    ended: dict[str, Outcome] = {}
    limit = time.monotonic() + 120
    while len(ended) < count and time.monotonic() < limit:
        for event in crew.events(1):
            if isinstance(event, Ended):
                ended[event.id] = event.outcome
    return ended


def killing(task: SlideTask, version: str, topic: str) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


def test_slides_are_tasks_and_a_bad_one_is_its_own_failure(scheduler: str, slide: Path) -> None:
    expected = upscale(task(slide, "whole").job).sha256_pixels
    broken = slide.with_name("broken.tif")
    broken.write_bytes(b"II*\0 and nothing more")
    bad = task(slide, "bad")
    with open_cluster(scheduler) as cluster, DaskCrew(cluster) as crew:
        assert crew.room == 2
        crew.start(task(slide, "good"))
        crew.start(replace(bad, job=replace(bad.job, source=broken)))
        assert crew.room == 0
        crew.start(task(slide, "shared"), places=2)
        ended = outcomes(crew, 3)
        assert crew.room == 2
    for name in ("good", "shared"):
        made = ended[name].result
        assert made is not None, ended[name].reason
        assert made.sha256_pixels == expected
    assert "broken.tif" in ended["bad"].reason
    assert not ended["bad"].may_retry


@pytest.mark.slow
def test_a_slide_that_costs_workers_their_lives_fails_alone(
    scheduler: str, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_cluster(scheduler) as cluster, DaskCrew(cluster) as crew:
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "slide", killing)
            crew.start(task(slide, "deadly"))
        ended = outcomes(crew, 1)
        crew.start(task(slide, "after"))
        ended |= outcomes(crew, 1)
    assert "several workers of the cluster were lost" in ended["deadly"].reason
    assert ended["deadly"].may_retry
    assert ended["after"].result is not None, ended["after"].reason
