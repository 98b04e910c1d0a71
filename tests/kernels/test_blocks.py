from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr_kernels import fit_blocks
from wsisr_kernels.blocks import reference, spread_step


def scene(seed: int, side: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and means that have nothing to do with each other, many of them at the limits."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(-80, 336, (height * side, width * side, 3)).clip(0, 255)
    means = rng.integers(-80, 336, (height, width, 3)).clip(0, 255)
    return pixels.astype(np.uint8), means.astype(np.uint8)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_the_means_are_met_whatever_the_pixels(
    seed: int, side: int, height: int, width: int
) -> None:
    pixels, means = scene(seed, side, height, width)
    fitted, plain = pixels.copy(), pixels.copy()
    fit_blocks(fitted, means, 3, 70000)
    np.testing.assert_array_equal(reference.block_means(fitted, side), means)
    reference.fit_blocks(plain, means, side, spread_step(side * side), 3, 70000)
    np.testing.assert_array_equal(fitted, plain)
    fit_blocks(fitted, means)
    wide = np.zeros((len(pixels) + 2, pixels.shape[1] + 3, 4), np.uint8)
    view = wide[1:-1, 2:-1, :3]
    view[...] = pixels
    fit_blocks(view, means, 3, 70000)
    np.testing.assert_array_equal(view, plain)
    np.testing.assert_array_equal(fitted, plain)


@pytest.mark.parametrize("side", [2, 3, 4, 8])
def test_it_never_leads_away_from_a_truth_with_these_means(side: int) -> None:
    rng = np.random.default_rng(side)
    truth = rng.integers(0, 256, (40 * side, 40 * side, 3)).astype(np.uint8)
    guess = (truth + rng.normal(0, 25, truth.shape)).clip(0, 255).astype(np.uint8)
    fitted = guess.copy()
    fit_blocks(fitted, reference.block_means(truth, side))

    def error(image: np.ndarray) -> float:
        return float(((image.astype(float) - truth) ** 2).mean())

    assert error(fitted) < error(guess)


def test_single_levels_leave_no_grid() -> None:
    pixels = np.full((64 * 8, 64 * 8, 3), 100, np.uint8)
    # 40 of 64 pixels must rise by one for the mean to become 101
    means = np.full((64, 64, 3), 101, np.uint8)
    fit_blocks(pixels, means)
    share = (pixels[..., 0] == 101).reshape(64, 8, 64, 8).mean((0, 2))
    assert share.mean() == 0.5
    assert np.abs(share - share.mean()).max() < 0.05


def test_a_known_block() -> None:
    pixels = np.array([[0, 0], [0, 255]], np.uint8)[..., None]
    fit_blocks(pixels, np.array([[[255]]], np.uint8))
    # 2 below the sum of 1020 still rounds to 255
    assert int(pixels.sum()) == 1018


@pytest.mark.parametrize("bad", ["shape", "type"])
def test_what_does_not_fit_is_refused(bad: str) -> None:
    pixels, means = scene(0, 2, 4, 4)
    broken = {
        "shape": (pixels[:-1], means),
        "type": (pixels.astype(np.int16), means),
    }
    with pytest.raises(ValueError, match="blocks"):
        fit_blocks(*broken[bad])
