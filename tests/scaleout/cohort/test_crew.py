from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tests.engine.conftest import slide
from tests.engine.support import job, level0
from tests.processes import CONTEXT
from wsisr.engine import upscale
from wsisr.scaleout.cohort import LocalCrew, Outcome, SlideTask, crew
from wsisr.scaleout.cohort.tasks import Ended

__all__ = ["slide"]

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_CONTEXT", CONTEXT)


@pytest.fixture
def places() -> Iterator[LocalCrew]:
    with LocalCrew([CPU, CPU]) as found:
        yield found
        pids = [place.process.pid for place in found._places if place.process]
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def task(slide: Path, name: str, **changes: object) -> SlideTask:
    wanted = job(slide, output=slide.with_name(f"{name}.ome.tif"), **changes)
    return SlideTask(name, wanted, None, slide.with_name(f"{name}.log"))


def outcomes(crew: LocalCrew, count: int, patience_s: float = 120) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    end = time.monotonic() + patience_s
    while len(found) < count:
        assert time.monotonic() < end
        found |= {e.id: e.outcome for e in crew.events(0.2) if isinstance(e, Ended)}
    return found


def test_slides_are_computed_side_by_side(places: LocalCrew, slide: Path) -> None:
    whole = upscale(job(slide))
    for name in ("a", "b"):
        places.start(task(slide, name))
    assert places.room == 0
    found = outcomes(places, 2)
    assert places.room == 2
    for name in ("a", "b"):
        result = found[name].result
        assert result is not None
        assert result.sha256_pixels == whole.sha256_pixels
        assert "done" in slide.with_name(f"{name}.log").read_text()


def test_what_is_wrong_with_a_slide_is_its_outcome(places: LocalCrew, slide: Path) -> None:
    bad = slide.with_name("bad.tif")
    bad.write_bytes(slide.read_bytes()[:100])
    places.start(task(bad, "bad"))
    places.start(task(slide, "odd", scale=0.5))
    found = outcomes(places, 2)
    assert "bad.tif" in found["bad"].reason
    assert not found["bad"].may_retry
    assert "scale" in found["odd"].reason
    assert "failed" in slide.with_name("bad.log").read_text()


def test_a_killed_process_is_told_and_replaced(places: LocalCrew, slide: Path) -> None:
    places.start(task(slide, "a"))
    os.kill(places._places[0].process.pid, signal.SIGKILL)
    found = outcomes(places, 1)["a"]
    assert found.may_retry
    assert found.reason == "its process was killed (signal 9), perhaps for want of memory"
    places.start(task(slide, "a"))
    assert outcomes(places, 1)["a"].result is not None


def test_a_silent_process_is_ended(places: LocalCrew, slide: Path) -> None:
    places.start(task(slide, "a"))
    os.kill(places._places[0].process.pid, signal.SIGSTOP)
    places._patience_s = 0.5
    found = outcomes(places, 1)["a"]
    assert found.may_retry
    assert "no progress" in found.reason


def test_the_last_slide_takes_all_places(places: LocalCrew, slide: Path) -> None:
    whole = upscale(job(slide))
    places.start(task(slide, "a"), places=2)
    assert places.room == 0
    found = outcomes(places, 1)["a"]
    assert found.result is not None
    assert found.device == "2 x cpu"
    assert found.result.sha256_pixels == whole.sha256_pixels
    assert places.room == 2


def test_a_process_is_fresh_after_some_slides(
    places: LocalCrew, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew, "SLIDES_A_PROCESS", 1)
    places.start(task(slide, "a"))
    first = places._places[0].process.pid
    outcomes(places, 1)
    places.start(task(slide, "b"))
    assert places._places[0].process.pid != first
    outcomes(places, 1)


def test_what_is_under_way_can_be_resumed_after_the_end(slide: Path) -> None:
    with LocalCrew([CPU]) as crew:
        crew.start(task(slide, "a"))
    done = upscale(task(slide, "a").job)
    assert (level0(Path(done.output)) >= 0).all()
