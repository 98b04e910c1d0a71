from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from tests.processes import CONTEXT
from wsisr.errors import OutputError
from wsisr.scaleout.cohort import claims as module
from wsisr.scaleout.cohort.claims import Claims, Owner

NAMES = [f"slide {number}" for number in range(50)]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Claims]:
    with Claims(tmp_path, stale_s=0.3) as claims:
        yield claims


def claimed_by(folder: Path, owner: Owner, name: str = "a", beat: int = 0) -> Path:
    path = folder / f"{name}.claim"
    path.write_text(json.dumps({**asdict(owner), "beat": beat}))
    return path


def test_a_claim_is_taken_once_and_given_back(own: Claims, tmp_path: Path) -> None:
    with Claims(tmp_path) as other:
        assert own.take("a")
        assert not other.take("a")
        own.release("a")
        assert other.take("a")
        # one's own end does not take another's away
        own.release("a")
        assert not own.take("a")
    assert own.take("a")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        claims.take("a")
        claims.take("b")
    assert not list(tmp_path.iterdir())


def test_a_dead_owner_on_this_machine_loses_its_claim_at_once(own: Claims, tmp_path: Path) -> None:
    process = CONTEXT.Process(target=os.getpid)
    process.start()
    process.join()
    assert process.pid is not None
    claimed_by(tmp_path, replace(own.owner, pid=process.pid, command="x"))
    assert own.take("a")
    # the number of a dead process was given to another one
    claimed_by(tmp_path, replace(own.owner, started=own.owner.started - 99, command="x"), "b")
    assert own.take("b")


def test_what_a_dead_owner_left_of_a_finished_slide_is_removed(own: Claims, tmp_path: Path) -> None:
    claimed_by(tmp_path, replace(own.owner, started=own.owner.started - 99, command="x"))
    (tmp_path / "a.claim.lock").touch()
    living = claimed_by(tmp_path, replace(own.owner, command="x"), "b")
    for name in "abc":
        own.clear(name)
    assert list(tmp_path.iterdir()) == [living]


def test_a_clock_that_is_set_back_makes_no_owner_dead(
    own: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed_by(tmp_path, replace(own.owner, command="x"))
    for step in (-86400, 86400):
        now = time.time()
        monkeypatch.setattr(time, "time", lambda now=now, step=step: now + step)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self, step=step: step)
        assert not own.take("a")


def test_a_living_owner_keeps_its_claim(own: Claims, tmp_path: Path) -> None:
    claimed_by(tmp_path, replace(own.owner, command="x"), beat=7)
    assert not own.take("a")


def test_of_another_machine_the_heartbeat_decides(
    own: Claims, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Owner("far away", os.getpid(), 0.0, "x")
    path = claimed_by(tmp_path, elsewhere)
    # clocks that go backwards, and times of files, say nothing
    monkeypatch.setattr(time, "time", lambda: -1e9)
    os.utime(path, (0, 0))
    for beat in range(4):
        claimed_by(tmp_path, elsewhere, beat=beat)
        assert not own.take("a")
        time.sleep(0.15)
    time.sleep(0.5)
    assert own.take("a")


def test_a_claim_that_is_being_written_is_another_s(own: Claims, tmp_path: Path) -> None:
    (tmp_path / "a.claim").write_bytes(b"")
    assert not own.take("a")
    time.sleep(0.5)
    assert own.take("a")


def test_a_claim_is_kept_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.05)
    with Claims(tmp_path) as claims:
        claims.take("a")
        before = (tmp_path / "a.claim").read_bytes()
        time.sleep(0.3)
        assert (tmp_path / "a.claim").read_bytes() != before
        # whoever took it over keeps it
        taken = claimed_by(tmp_path, Owner("far away", 1, 0.0, "x")).read_bytes()
        time.sleep(0.3)
        assert (tmp_path / "a.claim").read_bytes() == taken


def test_a_folder_that_is_gone_is_told(own: Claims, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(OutputError, match="does not exist"):
        own.take("a")
    tmp_path.mkdir()


def race(folder: Path, number: int) -> None:
    with Claims(folder / "claims") as claims:
        for name in NAMES:
            if claims.take(name):
                with (folder / f"{number}.taken").open("a") as file:
                    file.write(f"{name}\n")
                # kept until all have tried
        time.sleep(2)


@pytest.mark.parametrize("stale", [False, True])
def test_eight_commands_never_take_one_slide_twice(tmp_path: Path, stale: bool) -> None:
    (tmp_path / "claims").mkdir()
    if stale:
        with Claims(tmp_path) as claims:
            dead = replace(claims.owner, started=0.0)
        for name in NAMES:
            claimed_by(tmp_path / "claims", dead, name)
    processes = [CONTEXT.Process(target=race, args=(tmp_path, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    taken = [line for file in tmp_path.glob("*.taken") for line in file.read_text().splitlines()]
    assert len(taken) == len(set(taken))
    if not stale:
        assert sorted(taken) == sorted(NAMES)
    assert not list((tmp_path / "claims").iterdir())
