"""Parts of runs as a model folder, and a folder that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import train.stages.export
from tests.models.conftest import small_restoration
from tests.models.files.test_folder import small_files
from train.stages.export import main
from wsisr.errors import ModelError
from wsisr.models import from_pretrained


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    small_restoration().save_pretrained(tmp_path / "run" / "restoration")
    return ["--stage1", str(tmp_path / "run"), "--name", "small", "--out", str(tmp_path / "out")]


def test_a_folder_that_cannot_be_written_is_one_line_and_no_model(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments) == 0
    from_pretrained(out)
    capsys.readouterr()
    with small_files(20_000):
        assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {out} cannot be written (")
    assert "File too large" in error
    assert error.count("\n") == 1
    with pytest.raises(ModelError, match=r"no model\.json"):
        from_pretrained(out)
    file = tmp_path / "file"
    file.touch()
    assert main([*arguments, "--out", str(file)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file} cannot be written (")
    assert error.count("\n") == 1


def test_a_model_is_none_from_the_moment_its_parts_go(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(arguments) == 0

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train.stages.export, "save_pretrained", full)
    assert main(arguments) == 1
    assert not (tmp_path / "out" / "model.json").exists()
