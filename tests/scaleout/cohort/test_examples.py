"""The script for Slurm, run as a task of an array with a `wsisr` that says what it was given."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from wsisr.scaleout.cohort import Shard, shard_from_environment

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "slurm_array.sh"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What Slurm sets for the third of eight tasks, and a path on which `wsisr` is a stand-in."""
    stand_in = tmp_path / "bin" / "wsisr"
    stand_in.parent.mkdir()
    stand_in.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\nenv | grep ^SLURM_\n')
    stand_in.chmod(0o755)
    array = {"ID": 3, "COUNT": 8, "MIN": 1, "MAX": 8, "STEP": 1}
    return {
        "PATH": f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}",
        **{f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()},
    }


def run(*words: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *words], env=environ, capture_output=True, text=True, check=False
    )


def test_the_script_is_valid() -> None:
    assert run("-n", str(SCRIPT), environ=dict(os.environ)).returncode == 0


def test_a_task_computes_its_share(environ: dict[str, str]) -> None:
    done = run(str(SCRIPT), "my slides.csv", "out", "--scale", "4", environ=environ)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:6] == ["batch", "my slides.csv", "--out", "out", "--scale", "4"]
    seen = dict(line.split("=", 1) for line in said[6:])
    assert shard_from_environment(seen) == Shard(3, 8)


def test_what_is_missing_is_said(environ: dict[str, str]) -> None:
    done = run(str(SCRIPT), environ=environ)
    assert done.returncode != 0
    assert "give the manifest" in done.stderr
