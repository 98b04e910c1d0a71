"""Readers are compared on a folder: who differs is told, and a crash ends no comparison."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from bench import formats
from wsisr.errors import SlideError


def image(side: int = 40) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (side, side + 9, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    Image.fromarray(image()).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "deep" / "b.tif", image(), photometric="rgb")
    tifffile.imwrite(tmp_path / "deep" / "c.tiff", image().astype(np.float32), photometric="rgb")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_compared_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, listed = tmp_path / "figures.json", tmp_path / "list.txt"
    code = formats.main([str(folder), "--json", str(json_file), "--list", str(listed)])
    assert code == 0
    figures = json.loads(json_file.read_text())
    assert (figures["equal"], figures["no_two_agree"], figures["equal_share"]) == (2, 1, 1.0)
    lines = listed.read_text().splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["equal", "a.png"], ["equal", "deep/b.tif"], ["no two agree", "deep/c.tiff"],
    ]  # fmt: skip
    assert "equal_share" in capsys.readouterr().out


def test_outcomes_of_one_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> np.ndarray:
        raise SlideError(f"{path} is refused")

    def crash(path: Path) -> np.ndarray:
        raise IndexError("out of range")

    readers = {
        "equal": lambda path: image(),
        "different": lambda path: 255 - image(),
        "refused": refuse,
        "crash": crash,
    }
    for outcome, reader in readers.items():
        monkeypatch.setattr(formats, "by_wsisr", reader)
        assert formats.compare(folder / "a.png")[0] == outcome


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_reader_that_dies_is_counted_and_the_next_file_is_compared(folder: Path) -> None:
    steps = formats.outcomes([folder / "a.png", folder / "deep" / "b.tif"], _dies_at_png)
    assert [outcome for outcome, _ in steps] == ["crash", "equal"]


def _dies_at_png(path: Path) -> tuple[str, str]:
    if path.suffix == ".png":
        os.kill(os.getpid(), signal.SIGKILL)
    return "equal", ""


def test_a_folder_without_images_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert formats.main([str(tmp_path)]) == 2
    assert "holds no image files" in capsys.readouterr().err
