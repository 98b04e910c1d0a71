"""The least and the most that each kernel takes, with values at the ends of their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsisr_kernels import blend_cell, blend_ramp, fit_blocks, philox_normal_batch


@pytest.mark.parametrize(("side", "overlap"), [(1, 0), (2, 1), (3, 1), (8, 4), (64, 32)])
@pytest.mark.parametrize("value", [0.0, 255.0, -3e38, 3e38, float("nan"), float("inf")])
def test_blending_of_the_smallest_cells(side: int, overlap: int, value: float) -> None:
    for height, width in ((1, 1), (side, 1), (1, side), (side, side)):
        window = torch.full((side, side, 3), value)
        out = torch.zeros((height, width, 3), dtype=torch.uint8)
        left = torch.full((side, overlap, 3), value)
        above = torch.full((overlap, width, 3), value)
        below = torch.zeros((overlap, width, 3))
        ramp = torch.from_numpy(blend_ramp(overlap))
        finite = blend_cell(window, left, above, ramp, out, below)
        assert finite == bool(np.isfinite(value))
        assert blend_cell(window, None, None, ramp, out, None) == finite
        if finite:
            assert (out == (0 if value <= 0 else 255)).all()


@pytest.mark.parametrize("side", [1, 2, 3, 16])
@pytest.mark.parametrize("now", [0, 1, 254, 255])
@pytest.mark.parametrize("wanted", [0, 1, 128, 254, 255])
def test_blocks_of_any_size_reach_any_mean(side: int, now: int, wanted: int) -> None:
    pixels = np.full((2 * side, 3 * side, 3), now, np.uint8)
    means = np.full((2, 3, 3), wanted, np.uint8)
    fit_blocks(pixels, means, 2**31 - 2, 2**31 - 2)
    sums = pixels.astype(int).reshape(2, side, 3, side, 3).sum((1, 3))
    np.testing.assert_array_equal((2 * sums + side**2) // (2 * side**2), means)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (4, 4, 0), (0, 0, 0)])
def test_blocks_without_pixels_are_refused_or_left_alone(shape: tuple[int, ...]) -> None:
    empty = np.zeros(shape, np.uint8)
    if shape[0]:
        fit_blocks(empty, empty.copy())
    else:
        with pytest.raises(ValueError, match="not blocks"):
            fit_blocks(empty, empty.copy())


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("origin", [-(2**31), 0, 2**31 - 1])
@pytest.mark.parametrize("seed", [-(2**63), 0, 2**64 - 1])
def test_noise_at_the_ends_of_its_field(channels: int, origin: int, seed: int) -> None:
    noise = philox_normal_batch(seed, 2**32 - 1, [(origin, origin)], 1, 1, channels)
    assert noise.shape == (1, channels, 1, 1)
    assert torch.isfinite(noise).all()
    assert philox_normal_batch(seed, 0, [], 1, 1, channels).shape == (0, channels, 1, 1)
