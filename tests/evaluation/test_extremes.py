"""Tiles that no scan shows end in a figure, in NaN or in a refusal, and never in a dead process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.evaluation.extremes import NAMES, pairs, tissue
from tests.processes import wsisr
from wsisr.errors import OptionError, UsageError
from wsisr.evaluation import evaluate
from wsisr.evaluation.measures import nuclear_features
from wsisr.evaluation.nuclei import ClassicalSegmenter, compare_nuclei
from wsisr.evaluation.nuclei.classical import _flood, _peaks, keep_by_area


def measured(*sides: int, **environment: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.extremes", *map(str, sides)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def test_measures_of_extreme_tiles() -> None:
    found = measured(32)
    assert {f"black 32 {name}" for name in NAMES if name != "lr_rmse"} <= set(found)
    assert found["black 32 nuclei_pq"] == "nan"
    assert found["flat pair 32 psnr"] == "inf"


@pytest.mark.slow
def test_measures_of_extreme_tiles_with_every_index_checked(tmp_path: Path) -> None:
    # kernels that were compiled before do not check, so they are compiled anew
    assert measured(NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("depth", [np.inf, np.finfo(np.float32).max, np.nan, -np.inf, -1.0])
def test_the_watershed_takes_any_depth(depth: float) -> None:
    depths = np.full((20, 30), depth, np.float32)
    mask = np.ones((20, 30), np.uint8)
    peaks = _peaks(depths, mask, 0.5, np.array([[0, 0], [0, 1], [-1, 0]]))
    labels = cv2.connectedComponents(peaks, connectivity=8)[1]
    labels[3, 4] = 1
    _flood(labels, depths, mask)
    assert (labels == 1).all()


def test_a_mask_without_background_outlines_nothing() -> None:
    mask = np.ones((32, 32), bool)
    assert not ClassicalSegmenter()._label(mask, 0.25).any()


@pytest.mark.parametrize(
    "labels",
    [
        np.full((8, 8), -5, np.int32),
        np.full((8, 8), 2**31 - 1, np.int32),
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 3), np.int32),
    ],
)
def test_what_is_no_label_image_is_refused(labels: np.ndarray) -> None:
    good = np.zeros((8, 8), np.int32)
    for one, other in ((labels, good), (good, labels)):
        with pytest.raises(UsageError, match="label"):
            compare_nuclei(one, other)
    with pytest.raises(UsageError, match="label"):
        nuclear_features(np.zeros((8, 8, 3), np.uint8), labels)


def test_labels_of_any_number_are_counted() -> None:
    labels = np.array([[2**31 - 1, 7, 7], [0, 0, 7]], np.int64)
    np.testing.assert_array_equal(keep_by_area(labels, 1, np.inf), [[2, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(keep_by_area(labels, 2, np.inf), [[0, 1, 1], [0, 0, 1]])
    for wrong in (np.full((2, 2), -1), np.zeros((2, 2))):
        with pytest.raises(UsageError, match="whole numbers"):
            keep_by_area(wrong, 1, np.inf)


def test_eval_of_extreme_tiles(tmp_path: Path) -> None:
    """A segmentation fault would leave neither a table nor a message."""
    for name, sr, hr in pairs(192):
        for folder, image in (("sr", sr), ("hr", hr)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{name}.png")
    folders = (tmp_path / "sr", tmp_path / "hr")
    done = wsisr("eval", "--tiles", *folders, "--workers", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tiles"] == 7


@pytest.mark.parametrize("wrong", [{"count": -3}, {"count": 0}, {"seed": -1}, {"tile_size": 0}])
def test_numbers_that_lead_nowhere_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        evaluate(tmp_path / "sr.png", **wrong)


def test_eval_in_the_smallest_tiles(tmp_path: Path) -> None:
    image = tissue(192)
    Image.fromarray(image).save(tmp_path / "hr.png")
    Image.fromarray((image * 0.45).astype(np.uint8)).save(tmp_path / "sr.png")
    transform = tmp_path / "same.json"
    transform.write_text('{"matrix": [[1, 0, 0], [0, 1, 0]]}')
    done = wsisr(
        *("eval", tmp_path / "sr.png", tmp_path / "hr.png", "--tile-size", 32, "--json"),
        *("--transform", transform, "--sr-mpp", 0.25, "--hr-mpp", 0.25, "--force"),
    )
    assert done.returncode == 0, done.stderr
