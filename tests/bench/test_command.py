from __future__ import annotations

import ast
import json
import math
import sys
from pathlib import Path

import pytest

import bench.quality.__main__ as quality
import bench.speed.__main__ as speed
from bench import command
from wsisr.errors import OptionError, OutputError, WsisrError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of two programs: one prints its words, the other fails."""
    folder = tmp_path / "made_programs"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "echo.py").write_text("def main(words):\n    print(words)\n    return 3\n")
    (folder / "fail.py").write_text(
        "from wsisr.errors import OptionError\n"
        "def main(words):\n    raise OptionError('input_mpp', 9, 'is too much')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_programs"
    for name in [name for name in sys.modules if name.startswith("made_programs")]:
        del sys.modules[name]


PROGRAMS = {"echo": "Prints its words.", "fail": "Fails."}


def test_the_first_word_names_the_program_and_no_other_is_imported(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.dispatch(package, PROGRAMS, ["echo", "--a", "b"]) == 3
    assert capsys.readouterr().out == "['--a', 'b']\n"
    assert "made_programs.fail" not in sys.modules
    assert command.dispatch(package, PROGRAMS, ["--a", "b"], default="echo") == 3
    assert capsys.readouterr().out == "['--a', 'b']\n"


def test_without_a_word_the_programs_are_listed(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--help"]):
        assert command.dispatch(package, PROGRAMS, arguments) == 0
        assert "echo  Prints its words." in capsys.readouterr().out
    for arguments in (["ecco"], ["--a"]):
        assert command.dispatch(package, PROGRAMS, arguments) == 2
        error = capsys.readouterr().err
        assert f"has no program {arguments[0]}; choose from echo, fail" in error
        assert error.count("\n") == 1


def test_an_error_is_one_line_with_options_as_on_the_command_line(
    package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.dispatch(package, PROGRAMS, ["fail"]) == 2
    assert capsys.readouterr().err == "error: --input-mpp 9: is too much\n"


@pytest.mark.parametrize("package", [quality, speed])
def test_every_program_is_a_module_that_names_its_command(package: object) -> None:
    folder = Path(package.__file__).parent
    for name in package.PROGRAMS:
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        assert "main" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert f"bench.{folder.name} {name}" in words


def test_lists_and_scales() -> None:
    assert command.name_list("a, b") == ["a", "b"]
    assert command.scale_list("4,8") == [4, 8]
    for wrong in ("", "4,4", "0", "4,x", "-2"):
        with pytest.raises(OptionError, match="whole numbers, each once"):
            command.scale_list(wrong)


def test_figures_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = command.output_file(str(tmp_path / "f.json"))
    figures = {"ratio": 1.23456, "large": 12345.6, "count": 3, "cpu": "x", "none": math.inf}
    command.report(figures, path)
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert shown == [
        ["ratio", "1.235"],
        ["large", "12346"],
        ["count", "3"],
        ["cpu", "x"],
        ["none", "inf"],
    ]
    assert json.loads(path.read_text()) == figures | {"none": None}
    with pytest.raises(OutputError, match="is no folder"):
        command.output_file(str(tmp_path / "no" / "f.json"))


def test_a_module_in_its_own_process_hands_back_json_or_fails_by_name(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    assert command.run_module("json.tool", str(file)) == {"a": 1}
    with pytest.raises(WsisrError, match=r"`python -m json.tool .*none` failed with exit code"):
        command.run_module("json.tool", str(tmp_path / "none"))


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage inherits on Linux")
def test_a_modules_peak_memory_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    (tmp_path / "tell_peak.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    held = bytearray(b"x") * 300_000_000
    assert command.run_module("tell_peak") < len(held) / 1024 / 2
