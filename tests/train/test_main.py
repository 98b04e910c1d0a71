"""`python -m train` finds its commands by name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.train import small
from train.__main__ import COMMANDS, main


def test_the_commands_are_listed_with_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (module, summary) in COMMANDS.items():
        assert f"  {name:<12} {summary}" in lines
        assert importlib.util.find_spec(module) is not None


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage3", "--out", "x"]) == 2
    assert "stage3 is no command; is stage" in capsys.readouterr().err
    assert main(["upscale"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_list_needs_no_torch() -> None:
    code = "import sys; from train.__main__ import main; main([]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=small.ROOT, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
