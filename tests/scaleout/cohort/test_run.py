from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engine.support import level0, tissue_like
from tests.processes import CONTEXT, Run
from wsisr.errors import ExistsError, OptionError, OutputError
from wsisr.files import write_atomic
from wsisr.scaleout.cohort import (
    Claims,
    CohortResult,
    LocalCrew,
    SlideTask,
    crew,
    ledger,
    run_batch,
)

OPTIONS: dict[str, Any] = {
    "scale": 2, "input_mpp": 1.0, "model": "bicubic", "window": 128, "overlap": 32,
    "compression": "deflate",
}  # fmt: skip


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_CONTEXT", CONTEXT)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for number in range(5):
        image = Image.fromarray(tissue_like(150 + 40 * number, 110, number))
        image.save(folder / f"s{number}.png")
    (folder / "torn.tif").write_bytes(b"II*\0")
    return folder


def batch(slides: Path, **changes: Any) -> CohortResult:
    options = {**OPTIONS, **changes.pop("options", {})}
    return run_batch(
        [slides], slides.with_name("out"), options, device="cpu", **{"workers": 2, **changes}
    )


def statuses(result: CohortResult) -> dict[str, str]:
    return {row.id: row.status for row in result.rows}


def test_one_bad_slide_stops_no_other_and_nothing_is_done_twice(slides: Path) -> None:
    shares: list[float] = []
    first = batch(slides, watch=lambda state: shares.append(state.share))
    assert statuses(first) == {**{f"s{n}": "done" for n in range(5)}, "torn": "failed"}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    failed = next(row for row in first.rows if row.status == "failed")
    assert "torn.tif" in failed.reason
    assert failed.attempts == 1
    out = slides.with_name("out")
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.ome.tif")}
    assert len(made) == 5
    again = batch(slides)
    assert statuses(again) == {**{f"s{n}": "skipped" for n in range(5)}, "torn": "failed"}
    assert again.rows[0].sha256_pixels == first.rows[0].sha256_pixels
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.ome.tif")} == made
    assert not [path for path in out.rglob("*") if path.suffix in (".claim", ".lock", ".partial")]
    assert json.loads(again.report.json.read_text())["slides"]


def test_outputs_of_other_settings_are_refused_before_anything_starts(slides: Path) -> None:
    batch(slides)
    (slides / "new.png").write_bytes((slides / "s0.png").read_bytes())
    with pytest.raises(ExistsError, match=r"s0\.ome\.tif and 4 more: made with other settings"):
        batch(slides, options={"scale": 3})
    assert not slides.with_name("out").joinpath("new.ome.tif").exists()
    replaced = batch(slides, options={"scale": 3}, overwrite=True)
    assert replaced.count("done") == 6
    assert level0(slides.with_name("out") / "s0.ome.tif").shape[1] == 450


def test_an_output_that_upscale_made_is_known_by_its_provenance(slides: Path) -> None:
    batch(slides)
    for path in (slides.with_name("out") / ".wsisr").iterdir():
        path.unlink()
    assert batch(slides).count("skipped") == 5


def test_a_slide_that_has_changed_is_not_finished(slides: Path) -> None:
    batch(slides)
    Image.fromarray(tissue_like(150, 110, 9)).save(slides / "s0.png")
    with pytest.raises(ExistsError, match=r"s0\.ome\.tif: made with other settings"):
        batch(slides)


def test_what_a_killed_process_computed_is_tried_again(
    slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, killed = LocalCrew.start, []

    def start_and_kill(self: LocalCrew, task: SlideTask, places: int = 1) -> None:
        start(self, task, places)
        if len(killed) < 2:
            place = next(p for p in self._places if p.task is task)
            os.kill(place.process.pid, signal.SIGKILL)
            killed.append(task.id)

    monkeypatch.setattr(LocalCrew, "start", start_and_kill)
    rows = {row.id: row for row in batch(slides).rows}
    assert len(killed) == 2
    assert {row.status for row in rows.values()} == {"done", "failed"}
    assert [rows[name].status for name in killed] == ["done", "done"]
    assert {rows[name].attempts for name in killed} <= {2, 3}
    assert batch(slides, retries=0).count("skipped") == 5


def test_a_slide_whose_process_always_dies_fails_alone(
    slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = LocalCrew.start

    def start_and_kill(self: LocalCrew, task: SlideTask, places: int = 1) -> None:
        start(self, task, places)
        if task.id == "s3":
            place = next(p for p in self._places if p.task is task)
            os.kill(place.process.pid, signal.SIGKILL)

    monkeypatch.setattr(LocalCrew, "start", start_and_kill)
    result = batch(slides)
    row = next(row for row in result.rows if row.id == "s3")
    assert (row.status, row.attempts) == ("failed", 2)
    assert "signal 9" in row.reason
    assert result.count("done") == 4


def test_the_claim_of_a_command_that_died_at_the_end_is_removed(slides: Path) -> None:
    batch(slides)
    folder = slides.with_name("out") / ".wsisr"
    with Claims(folder) as claims:
        dead = dataclasses.asdict(claims.owner) | {"started": 0.0, "beat": 3}
    for name in ("s0", "s1"):
        (folder / f"{name}.claim").write_text(json.dumps(dead))
    (folder / "s1.json").unlink()
    again = batch(slides)
    assert again.count("skipped") == 5
    assert not list(folder.glob("*.claim*"))


def test_two_commands_share_a_folder(slides: Path) -> None:
    arguments = (
        "batch", slides, "--out", slides.with_name("out"), "--workers", 1, "--scale", 2,
        "--input-mpp", 1.0, "--model", "bicubic", "--window", 128, "--overlap", 32,
        "--device", "cpu", "--json",
    )  # fmt: skip
    commands = [Run(*arguments) for _ in range(2)]
    ended = [command.wait(240) for command in commands]
    assert {each.returncode for each in ended} == {1}, ended[0].stderr
    rows = [{row["id"]: row for row in json.loads(each.stdout)} for each in ended]
    for name in (f"s{number}" for number in range(5)):
        found = sorted(each[name]["status"] for each in rows)
        assert found in (["done", "elsewhere"], ["done", "skipped"]), name
        log = (slides.with_name("out") / "logs" / f"{name}.log").read_text()
        assert log.count("starts:") == 1


def test_four_shares_compute_each_slide_once(slides: Path) -> None:
    results = [batch(slides, shard=f"{number}/4", workers=1) for number in range(1, 5)]
    computed = [row.id for result in results for row in result.rows]
    assert sorted(computed) == [*(f"s{number}" for number in range(5)), "torn"]
    report = json.loads(results[-1].report.json.read_text())
    assert {row["id"] for row in report["slides"]} == set(computed)


def test_an_interrupted_command_goes_on(slides: Path) -> None:
    def interrupt(state: Any) -> None:
        if state.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch(slides, watch=interrupt)
    report = json.loads((slides.with_name("out") / "report.json").read_text())
    assert {"interrupted"} <= {row["status"] for row in report["slides"]}
    assert not list(slides.with_name("out").rglob("*.claim"))
    result = batch(slides)
    assert result.count("done") + result.count("skipped") == 5


def test_the_command_ends_cleanly_on_a_signal(slides: Path) -> None:
    command = Run(
        "batch", slides, "--out", slides.with_name("out"), "--workers", 1, "--scale", 8,
        "--input-mpp", 2.0, "--model", "bicubic", "--window", 64, "--overlap", 0, "--device", "cpu",
    )  # fmt: skip
    end = time.monotonic() + 120
    while not list(slides.with_name("out").rglob("*.claim")):
        assert time.monotonic() < end
        time.sleep(0.05)
    command.send_signal(signal.SIGTERM)
    ended = command.wait(120)
    assert ended.returncode == 130
    assert "the same command goes on" in ended.stderr
    assert not list(slides.with_name("out").rglob("*.claim"))


def test_a_folder_that_is_removed_ends_the_command(slides: Path) -> None:
    def remove(state: Any) -> None:
        if state.done == 1:
            shutil.rmtree(slides.with_name("out"), ignore_errors=True)

    with pytest.raises(OutputError, match="does not exist"):
        batch(slides, watch=remove)


def test_a_place_that_is_no_folder_is_refused(slides: Path) -> None:
    slides.with_name("out").touch()
    with pytest.raises(OutputError, match="choose a folder you may write to"):
        batch(slides)


def test_a_disk_that_is_full_ends_the_command_and_the_same_one_goes_on(
    slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str] = []

    def write(path: Path, text: str) -> None:
        if len(noted) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        noted.append(path.name)
        write_atomic(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "write_atomic", write)
        with pytest.raises(OutputError, match="the disk is full"):
            batch(slides)
    assert not list(slides.with_name("out").rglob("*.claim"))
    assert batch(slides).count("failed") == 1
    assert len(list(slides.with_name("out").glob("*.ome.tif"))) == 5


@pytest.mark.parametrize(
    ("changes", "option"),
    [({"workers": 0}, "workers"), ({"retries": -1}, "retries"), ({"gpus": "0"}, "gpus"),
     ({"shard": "3/2"}, "shard")],
)  # fmt: skip
def test_wrong_options_are_told_before_anything_starts(
    slides: Path, changes: dict[str, Any], option: str
) -> None:
    with pytest.raises(OptionError) as raised:
        batch(slides, **changes)
    assert raised.value.option == option
