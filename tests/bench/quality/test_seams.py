from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.quality.seams import (
    Grid,
    certify,
    certify_slide,
    is_certified,
    overlap_steps,
    ratio_with_interval,
)
from wsisr.errors import UsageError
from wsisr.models.windows import Bicubic

GRID, SIZE, STARTS = Grid(256, 64), 1024, (-96, 0)


def texture() -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return np.clip(140 + 150 * smooth, 0, 255)


def judge(plain: np.ndarray) -> dict[str, float]:
    images = [image.clip(0, 255).astype(np.uint8) for image in (plain, texture())]
    return certify(*images, GRID, STARTS)


def test_no_seam_is_certified() -> None:
    found = judge(texture())
    assert found["gradient_low"] < 1 < found["gradient_high"]
    assert found["paired"] == found["sharpness"] == 1
    assert found["comb_db"] == 0
    assert found["control"] == found["gradient"]
    assert is_certified(found)


def test_a_step_of_two_grey_levels_at_every_window_is_found() -> None:
    plain = texture()
    steps = (np.arange(SIZE) - STARTS[0]) // GRID.stride % 2 * 4
    found = judge(plain + steps[None, :, None] + steps[:, None, None])
    assert found["paired_low"] > 1.01
    assert found["gradient"] > found["control"] + 0.02
    assert not is_certified(found)


def test_blurred_overlaps_are_found() -> None:
    plain = texture()
    blurred = cv2.GaussianBlur(plain, (0, 0), 1)
    for start in range(STARTS[0] + GRID.stride, SIZE, GRID.stride):
        band = slice(max(start, 0), start + GRID.overlap)
        plain[band], plain[:, band] = blurred[band], blurred[:, band]
    assert judge(plain)["sharpness"] < 0.9


def test_lines_are_starts_and_ends_of_overlaps() -> None:
    assert GRID.overlap_lines(600) == [[192, 256], [384, 448], [576]]
    assert GRID.overlap_lines(400, -96) == [[96, 160], [288, 352]]


def test_the_interval_is_of_the_ratio() -> None:
    rng = np.random.default_rng(1)
    pairs = rng.uniform(1, 2, (200, 2))
    ratio, low, high = ratio_with_interval(pairs)
    assert low < ratio < high
    assert ratio == pytest.approx(pairs[:, 0].sum() / pairs[:, 1].sum())
    assert high - low < 0.1


def test_the_interval_holds_what_it_says_on_tissue_of_changing_texture() -> None:
    """Seamless profiles whose texture changes over 100 px: 19 of 20 intervals contain 1.

    So they do not where lines count as independent, which those of one overlap are not.
    """
    rng = np.random.default_rng(0)
    overlaps = Grid(512, 64).overlap_lines(2720)
    held = np.zeros(2)
    for _ in range(400):
        both = []
        for _axis in range(2):
            slow = cv2.GaussianBlur(rng.normal(size=(1, 2719)), (0, 0), 100)[0]
            sums = np.exp(0.2 * slow / slow.std() + 0.05 * rng.normal(size=2719))
            both.append((sums, overlaps))
        for kind, rows in enumerate(
            (
                [overlap_steps(sums, lines) for sums, lines in both],
                [
                    overlap_steps(sums, [[x]])
                    for sums, lines in both
                    for each in lines
                    for x in each
                ],
            )
        ):
            _, low, high = ratio_with_interval(np.concatenate(rows))
            held[kind] += low <= 1 <= high
    assert held[0] / 400 > 0.93
    assert held[1] < held[0]


def test_a_crop_of_few_windows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    cv2.imwrite(str(path), texture().astype(np.uint8))
    with pytest.raises(UsageError, match="larger size"):
        certify_slide(path, 2, Bicubic(), (600, 600), GRID)
