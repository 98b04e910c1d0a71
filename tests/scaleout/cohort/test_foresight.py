from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wsisr
from tests.scaleout.cohort.test_run import OPTIONS, batch, forked, slides
from wsisr.errors import OptionError
from wsisr.scaleout.cohort import CohortForesight, foresee_batch

__all__ = ["forked", "slides"]

FLAGS = (
    "--scale", 2, "--input-mpp", 1.0, "--model", "bicubic", "--window", 128, "--overlap", 32,
    "--compression", "deflate",
)  # fmt: skip


def foreseen(slides: Path, **changes: Any) -> CohortForesight:
    return foresee_batch([slides], slides.with_name("out"), OPTIONS, device="cpu", **changes)


def test_what_a_cohort_will_be_is_what_it_is(slides: Path) -> None:
    plan = foreseen(slides, workers=3)
    assert not slides.with_name("out").exists()
    assert plan.places == 3
    assert plan.seconds is not None
    assert plan.seconds > 0
    by_name = {slide.id: slide for slide in plan.slides}
    assert "torn.tif" in by_name["torn"].reason
    result = batch(slides)
    for row in result.rows:
        foresight = by_name[row.id].foresight
        assert (foresight is None) == (row.status == "failed")
        if foresight is not None:
            assert foresight.tissue_windows == row.tissue_tiles
    made = sum(row.output.stat().st_size for row in result.rows if row.status == "done")
    assert 0.7 < plan.output_bytes / made < 1.5
    after = foreseen(slides)
    assert {slide.reason for slide in after.slides} == {"done", by_name["torn"].reason}
    assert (after.output_bytes, after.seconds, after.fits) == (0, None, True)


def test_slides_behind_urls_are_not_opened(tmp_path: Path) -> None:
    plan = foresee_batch(["s3://user:secret@bucket/a.svs"], tmp_path / "out", OPTIONS)
    assert "URL" in plan.slides[0].reason
    assert plan.seconds is None


def test_the_command_prints_and_writes_nothing(slides: Path) -> None:
    out = slides.with_name("out")
    command = ("batch", slides, "--out", out, "--device", "cpu", *FLAGS, "--dry-run")
    text = wsisr(*command)
    assert text.returncode == 0, text.stderr
    lines = text.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == [f"s{n}" for n in range(5)] + ["torn"]
    assert lines[6] == "5 of 6 slides to compute, 1 at once"
    assert [line.split(":")[0] for line in lines[7:]] == ["disk", "time"]
    fields = json.loads(wsisr(*command, "--json").stdout)
    assert fields["slides"][0]["foresight"]["windows"] > 0
    assert not out.exists()


def test_events_are_told_line_by_line(slides: Path, tmp_path: Path) -> None:
    events, out = tmp_path / "events.jsonl", slides.with_name("out")
    command = ("batch", slides, "--out", out, "--device", "cpu", *FLAGS, "--log-json", events)
    assert wsisr(*command).returncode == 1
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert found[0]["event"] == "started"
    assert found[-1] == {**found[-1], "event": "finished", "done": 5, "failed": 1}
    ended = {entry["id"]: entry for entry in found if entry["event"] == "slide"}
    assert {name: entry["status"] for name, entry in ended.items()} == {
        **{f"s{n}": "done" for n in range(5)}, "torn": "failed",
    }  # fmt: skip
    assert len(ended["s1"]["sha256_pixels"]) == 64
    assert str(tmp_path) not in events.read_text().replace(ended["torn"]["reason"], "")


def test_events_may_not_go_into_an_input(slides: Path) -> None:
    from wsisr.scaleout.cohort import open_cohort_events

    with (
        pytest.raises(OptionError, match="log_json"),
        open_cohort_events(slides / "s0.png", [str(slides / "s0.png")]),
    ):
        pass
