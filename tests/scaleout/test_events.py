from __future__ import annotations

import json
import logging
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.engine.support import job
from tests.processes import Run, wsisr
from wsisr.errors import OptionError, OutputError
from wsisr.scaleout import open_events, upscale


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def loggers_as_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that set up logging for themselves turn off the loggers of others."""
    logging.disable(logging.NOTSET)
    for name in ("", "wsisr", "wsisr.engine", "wsisr.engine.runner"):
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "disabled", False)
        monkeypatch.setattr(logger, "propagate", True)
        level = logger.level
        logger.setLevel(logging.NOTSET if name else min(level, logging.WARNING))


@pytest.mark.usefixtures("loggers_as_at_start")
def test_a_run_is_told_line_by_line(slide: Path) -> None:
    path, asked = slide.with_name("events.jsonl"), job(slide)
    with open_events(path, asked) as events:
        result = upscale(asked, events.progress, announce=events.announce)
        logging.getLogger("wsisr.engine.runner").warning("out of %s", "memory")
        events.finished(result)
    found = entries(path)
    names = [entry["event"] for entry in found]
    assert names == ["started", "progress", "progress", "warning", "finished"]
    assert {entry["slide"] for entry in found} == {"in.tif"}
    assert found[0]["plan"]["windows"] == result.windows
    assert found[0]["settings"]["compression"] == "deflate"
    assert found[2]["done"] == found[2]["total"] == result.windows
    assert found[3]["message"] == "out of memory"
    assert found[4]["sha256_pixels"] == result.sha256_pixels
    assert str(slide.parent) not in path.read_text()


def test_a_failure_is_the_last_line(slide: Path) -> None:
    path = slide.with_name("events.jsonl")
    path.write_bytes(b'{"event": "half a li')
    asked = job(slide, model="nope")
    with pytest.raises(Exception, match="nope"), open_events(path, asked) as events:
        upscale(asked, events.progress, announce=events.announce)
    with pytest.raises(KeyboardInterrupt), open_events(path, asked):
        raise KeyboardInterrupt
    lines = path.read_text().splitlines()
    failed, interrupted = (json.loads(line) for line in lines[1:])
    assert failed["event"] == "failed"
    assert "nope" in failed["reason"]
    assert interrupted["reason"] == "interrupted"
    assert not logging.getLogger("wsisr").handlers


def test_files_of_the_run_itself_are_refused(slide: Path) -> None:
    link = slide.with_name("link.tif")
    link.symlink_to(slide)
    before = slide.read_bytes()
    for path in (slide, link, slide.with_name("out.ome.tif")):
        with pytest.raises(OptionError, match="log_json"), open_events(path, job(slide)):
            raise AssertionError
    with (
        pytest.raises(OutputError, match="folder"),
        open_events(slide.parent / "no" / "x", job(slide)),
    ):
        raise AssertionError
    assert slide.read_bytes() == before


def test_lines_are_sound_after_a_kill(tmp_path: Path) -> None:
    picture, path = tmp_path / "in.png", tmp_path / "events.jsonl"
    pixels = np.random.default_rng(0).integers(80, 200, (450, 450, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    command = (
        *("upscale", picture, tmp_path / "out.ome.tif", "--input-mag", 5, "--scale", 8),
        *("--model", "bicubic", "--compression", "deflate", "--log-json", path),
    )
    process = Run(*command)
    deadline = time.monotonic() + 60
    while not (path.exists() and b"progress" in path.read_bytes()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [entry["event"] for entry in entries(path)] == ["started", "progress"]
    assert wsisr(*command).returncode == 0
    assert [entry["event"] for entry in entries(path)][-2:] == ["progress", "finished"]
    refused = wsisr(*command[:-1], picture)
    assert refused.returncode == 2
    assert "--log-json" in refused.stderr
