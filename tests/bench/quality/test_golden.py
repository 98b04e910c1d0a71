from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.quality import golden
from bench.quality.__main__ import main


@pytest.fixture
def hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """{run: hash} of runs that are not made; in `tmp_path` are slides of the right names."""
    (tmp_path / "slides").mkdir()
    for name in (golden.COARSE, golden.COARSEST):
        (tmp_path / "slides" / name).touch()
    made = {name: f"{number:064x}" for number, name in enumerate(golden.RUNS)}

    def run(module: str, verb: str, slide: str, output: str, *options: str) -> dict[str, str]:
        assert (module, verb) == ("wsisr", "upscale")
        assert Path(slide).is_file()
        assert output.endswith(".ome.tif")
        assert options[-4:] == ("--precision", "fp32", "--json", "--overwrite")
        return {"sha256_pixels": made[Path(output).name.removesuffix(".ome.tif")]}

    monkeypatch.setattr(golden, "run_module", run)
    return made


def test_hashes_are_printed_written_and_compared(
    hashes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "before.json"
    arguments = ["golden", "--data", str(tmp_path)]
    assert main([*arguments, "--json", str(before)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == [f"{name} {value}" for name, value in hashes.items()]
    assert json.loads(before.read_text()) == hashes
    assert main([*arguments, "--against", str(before)]) == 0
    assert capsys.readouterr().out.count("  equal\n") == len(hashes) == 6

    old, hashes["exact"] = hashes["exact"], "f" * 64
    assert main([*arguments, "--against", str(before)]) == 1
    printed = capsys.readouterr()
    assert f"exact {'f' * 64}  DIFFERS from {old}\n" in printed.out
    assert printed.err == "error: the pixels of exact differ\n"


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot be read"), ("x", "cannot be read"), ("{}", "no hashes")]
)
def test_a_file_without_hashes_is_named_before_anything_runs(
    text: str | None,
    message: str,
    hashes: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    assert main(["golden", "--data", str(tmp_path), "--against", str(file)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: --against {file}: ")
    assert message in printed.err
    assert printed.out == ""


def test_a_folder_without_slides_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["golden", "--data", str(tmp_path)]) == 2
    assert "has no slides/test_b_10x.tif" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_gives_the_same_hash_twice(data_dir: Path) -> None:
    first, second = (golden.hash_of_run("bicubic", data_dir) for _ in range(2))
    assert first == second
    assert len(first) == 64
