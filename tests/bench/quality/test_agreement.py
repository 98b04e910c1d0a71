"""Consistency with the input, and uncertainty, on a small tile."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.quality.__main__ import main
from bench.quality.uncertainty import BLOCK, block_rms
from wsisr.evaluation.measures import Image


@pytest.fixture
def folder(tiles: list[Image], tmp_path: Path) -> Path:
    for number, image in enumerate(tiles):
        (tmp_path / f"slide{number}").mkdir()
        cv2.imwrite(str(tmp_path / f"slide{number}" / "a.png"), image[:98, :67, ::-1])
    return tmp_path


def test_exact_differs_from_its_input_in_no_byte(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.json"
    arguments = ["--tiles", str(folder), "--slides", "slide1", "--scales", "4", "--json", str(out)]
    assert main(["consistency", *arguments, "--model", "bicubic", "--modes", "off,exact"]) == 0
    result = json.loads(out.read_text())
    assert result["tiles"] == 1
    assert result["x4_off_bytes"] == 24 * 16 * 3
    assert result["x4_off_differing_bytes"] > 0
    assert result["x4_exact_differing_bytes"] == 0
    assert capsys.readouterr().out.count("bytes differ") == 2


def test_spread_of_two_samples_is_beside_their_error(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "u.json"
    arguments = ["--tiles", str(folder), "--limit", "1", "--scales", "4", "--json", str(out)]
    assert main(["uncertainty", *arguments, "--samples", "2"]) == 0
    result = json.loads(out.read_text())
    assert result["samples"] == 2
    assert result["x4_deviation"] > 0
    assert result["x4_error"] > 0
    assert -1 <= result["x4_rank_correlation"] == result["x4_rank_correlation_within"] <= 1


def test_blocks_are_root_mean_squares_of_whole_blocks() -> None:
    squares = np.ones((2 * BLOCK + 3, BLOCK))
    squares[BLOCK : 2 * BLOCK] = 9
    assert block_rms(squares).tolist() == [[1.0], [3.0]]
