"""The command line that the trainings share."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train import small
from train.loop.checkpoint import load_checkpoint
from train.loop.folder import lock_folder
from wsisr.errors import UsageError
from wsisr.models.networks.swinir import SwinIR


def test_a_folder_can_be_held_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with (
        lock_folder(tmp_path / "out"),
        pytest.raises(UsageError, match="another process"),
        lock_folder(tmp_path / "out"),
    ):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse)
    # filelock then holds it by the file's being there
    for _ in range(2):
        with lock_folder(tmp_path / "other"):
            pass


def test_an_interrupted_command_says_so_and_goes_on(tiles: Path, tmp_path: Path) -> None:
    config = small.config("stage1")
    config["stage1"]["loop"] = small.LOOP | {"iterations": 100_000, "save_every": 100_000}
    file = small.write(tmp_path / "small.yaml", config)
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run"]
    command = [sys.executable, "-m", "train", "stage1", *map(str, arguments)]
    with subprocess.Popen(command, cwd=small.ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "run" / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.05)
        beside = small.command("stage1", *arguments)  # another one in the same folder
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted; give the same command again to go on"
    assert "Traceback" not in error
    found = load_checkpoint(tmp_path / "run")
    assert found is not None
    assert beside.returncode == 2
    assert "another process works in it" in beside.stderr.splitlines()[-1]
    last = f"loop.iterations={found[0]}"
    assert small.command("stage1", *arguments, "--set", last).returncode == 0


@pytest.mark.slow
def test_the_commands_make_a_model_that_upscales(tiles: Path, tmp_path: Path) -> None:
    file = small.write(tmp_path / "small.yaml", small.config())
    common = ("--config", file, "--data", tiles, "--threads", 1)
    done = small.command("run", *common, "--out", tmp_path / "run", "--name", "small")
    assert done.returncode == 0, done.stderr[-2000:]
    from wsisr.engine.array import upscale_image

    lr = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    model = str(tmp_path / "run" / "model")
    assert upscale_image(lr, 4, model=model).shape == (160, 120, 3)


def test_a_disk_that_fills_while_parts_are_exported_is_one_line(
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", str(file), "--data", str(tiles), "--out", str(tmp_path / "run")]
    sets = ("loop.iterations=2", "loop.save_every=1", "loop.validate_every=2")
    arguments += [item for value in sets for item in ("--set", value)]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SwinIR, "save_pretrained", full)
        assert small.launch("stage1", arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    found = load_checkpoint(tmp_path / "run")
    assert found is not None
    assert found[0] == 1
    assert small.launch("stage1", arguments) == 0  # goes on where it stood


def test_options_reach_the_loop_and_snapshots_are_kept(tiles: Path, tmp_path: Path) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    sets = ("loop.iterations=4", "loop.accumulate=2", "loop.keep_every=2", "loop.precision=no")
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run"]
    arguments += [item for value in sets for item in ("--set", value)]
    assert small.launch("stage1", list(map(str, arguments))) == 0
    assert [row["iteration"] for row in small.log(tmp_path / "run")] == ["1", "4"]
    kept = sorted(f.name for f in (tmp_path / "run" / "snapshots").iterdir())
    assert kept == ["0000002", "0000004"]


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        (["--data", "none"], "none/train: no .jpg", 1),
        (["--config", "none.yaml"], "none.yaml cannot be read", 2),
        (["--set", "loop.rate=1"], "loop.rate: is no key of this section", 2),
        (["--set", "batch"], "--set stage1.batch: does not fit", 2),
        (["--set", "crop=4096"], "128x128 px are smaller than a crop of 4096 px", 1),
        (["--set", "crop=63"], "crop 63: must be a multiple of 4, 4", 2),
        (["--set", "batch=0"], "batch 0: must be 1 or more", 2),
        (["--set", "scales=[]"], "scales []: must be one or more factors", 2),
        (["--set", "scales=[2, 4]"], "scale_weights [1.0]: must be a weight for each", 2),
        (["--set", "scales=4"], "scales 4: must be a list", 2),
        (["--set", "sharpness=[1]"], "sharpness [1]: must be a list of 2", 2),
        (
            ["--set", "degradation=foo"],
            "degradation 'foo': must be area, scanner, codeformer or realesrgan",
            2,
        ),
        (["--set", "loss=foo"], "section stage1: loss 'foo': must be mse or l1", 2),
        (["--set", "loop.iterations=abc"], "loop.iterations 'abc': must be a whole number", 2),
        (["--set", "loop.save_every=0"], "loop.save_every 0: must be 1 or more", 2),
        (["--set", "loop.precision=foo"], "loop.precision 'foo': must be no, bf16 or fp16", 2),
        (["--set", "loop.learning_rate=1e30"], "loop.learning_rate '1e30': must be 1 or less", 2),
        (["--set", "loop=3"], "loop 3: must be keys and values", 2),
        (["--set", "loop.iterations=["], "the value cannot be read as YAML", 2),
        (["--set", "model.foo=1"], "stage1.model: no network can be made of it", 2),
        (["--set", "crop=96"], "stage1.crop 96: must be a multiple of 64 for SwinIR", 2),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tiles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    said: str,
    code: int,
) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", str(file), "--data", str(tiles), "--out", str(tmp_path / "run")]
    assert small.launch("stage1", [*arguments, *change]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]
