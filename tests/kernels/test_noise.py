from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr_kernels import philox_normal_batch
from wsisr_kernels.noise import reference

ONES = 0xFFFFFFFF
# kat_vectors of the Random123 library, the lines "philox4x32 10": counter, key, output
KNOWN_ANSWERS = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (ONES, ONES, ONES, ONES),
        (ONES, ONES),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
ORIGINS = np.array([(0, 0), (-5, 17), (2**31 - 9, -(2**31))], dtype=np.int64)
KEY = (12345, 0xF2345678)

positions = st.integers(-(2**31), 2**31 - 64)
seeds = st.integers(-(2**63), 2**64 - 1)


def field(
    seed: int, step: int, row: int, column: int, height: int, width: int, channels: int
) -> torch.Tensor:
    """The noise of one window."""
    return philox_normal_batch(seed, step, [(row, column)], height, width, channels)[0]


def bits(values: np.ndarray | torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(values)).view(np.int32)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_published_answers(counter, key, answer):
    words = [np.array([word], dtype=np.uint64) for word in counter]
    assert tuple(int(word[0]) for word in reference.philox4x32(words, key)) == answer


def test_published_answer_through_the_address():
    words = reference.philox_words((0, 0), 0, ORIGINS[:1], 1, 1, 4)
    assert tuple(words[0, :, 0, 0].tolist()) == KNOWN_ANSWERS[0][2]


@settings(max_examples=25, deadline=None)
@given(
    seeds,
    st.integers(0, 2**32 - 1),
    positions,
    positions,
    st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 9)),
)
def test_compiled_equals_reference(seed, step, row, column, shape):
    height, width, channels = shape
    key = (seed & ONES, (seed >> 32) & ONES)
    origin = np.array([(row, column)], dtype=np.int64)
    normal = field(seed, step, row, column, height, width, channels)
    expected = reference.philox_normals(key, step, origin, height, width, channels)[0]
    assert np.array_equal(bits(normal), bits(expected))
    assert normal.shape == (channels, height, width)
    assert normal.dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_triton_equals_reference(
    triton_version: Callable[[str], ModuleType], device: torch.device, channels: int
):
    gpu = triton_version("noise")
    for step in (0, 1, ONES):
        normal = gpu.philox_normals(KEY, step, ORIGINS, 5, 61, channels, device).cpu().numpy()
        expected = reference.philox_normals(KEY, step, ORIGINS, 5, 61, channels)
        assert np.array_equal(bits(normal), bits(expected))


def test_is_box_muller_to_half_a_rounding():
    """Against numpy's own logarithm, sine and cosine in double precision."""
    words = reference.philox_words(KEY, 3, ORIGINS, 64, 64, 4).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:, 0::2] + 0.5) / 2**32))
    angle = 2 * np.pi * (words[:, 1::2] + 0.5) / 2**32
    ours = reference.philox_normals(KEY, 3, ORIGINS, 64, 64, 4)
    for branch, exact in ((0, radius * np.cos(angle)), (1, radius * np.sin(angle))):
        error = np.abs(ours[:, branch::2] - exact)
        assert (error <= 0.501 * np.spacing(np.abs(exact).astype(np.float32)) + 1e-15).all()


def test_extreme_words_stay_finite():
    words = np.array([0, 1, 2**29 - 1, 2**29, 2**30, 2**31, 3 << 30, ONES], dtype=np.int64)
    grid = np.stack(np.meshgrid(words, words))[None]
    values = reference.normals(grid)
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 6.8
    u = (words + 0.5) / 2**32
    assert np.allclose(reference.log(u), np.log(u), rtol=1e-11, atol=0)


@settings(max_examples=25, deadline=None)
@given(positions, positions, st.integers(0, 20), st.integers(0, 20))
def test_a_window_is_a_piece_of_one_field(row, column, down, right):
    whole = field(7, 3, row, column, 32, 32, 6)
    part = field(7, 3, row + down, column + right, 12, 12, 6)
    assert torch.equal(part, whole[:, down : down + 12, right : right + 12])
    fewer = field(7, 3, row, column, 32, 32, 3)
    assert torch.equal(fewer, whole[:3])


def test_batch_equals_single_calls():
    origins = [(0, 0), (-4, 900), (64, -64)]
    batch = philox_normal_batch(5, 9, origins, 8, 16, 5)
    for values, (row, column) in zip(batch, origins, strict=True):
        assert torch.equal(values, field(5, 9, row, column, 8, 16, 5))
    assert philox_normal_batch(5, 9, [], 8, 16, 5).shape == (0, 5, 8, 16)


def test_every_part_of_the_address_counts():
    base = field(1, 2, 0, 0, 8, 8, 4)
    assert not torch.equal(base, field(1 + (1 << 40), 2, 0, 0, 8, 8, 4))
    assert not torch.equal(base, field(2, 2, 0, 0, 8, 8, 4))
    assert not torch.equal(base, field(1, 3, 0, 0, 8, 8, 4))
    assert not torch.equal(base[0], base[0].T)
    assert torch.equal(field(-1, 2, 0, 0, 8, 8, 4), field(2**64 - 1, 2, 0, 0, 8, 8, 4))


def test_is_standard_normal_white_noise():
    """Bounds are five standard errors of a million independent values."""
    noise = field(2024, 11, -256, -256, 512, 512, 4).double()
    n = noise.numel()
    bound = 5 / np.sqrt(n)
    assert abs(noise.mean()) < bound
    assert abs(noise.var() - 1) < bound * np.sqrt(2)
    assert abs((noise**3).mean()) < bound * np.sqrt(15)
    assert abs((noise**4).mean() - 3) < bound * np.sqrt(96)
    later = field(2024, 12, -256, -256, 512, 512, 4).double()
    neighbours = {
        "rows": (noise[:, 1:], noise[:, :-1]),
        "columns": (noise[:, :, 1:], noise[:, :, :-1]),
        "diagonal": (noise[:, 1:, 1:], noise[:, :-1, :-1]),
        "channels": (noise[1:], noise[:-1]),
        "steps": (noise, later),
        "squares of a pair": (noise[0::2] ** 2 - 1, (noise[1::2] ** 2 - 1) / 2),
    }
    for name, (one, other) in neighbours.items():
        assert abs((one * other).mean()) < 5 / np.sqrt(one.numel()), name


@pytest.mark.parametrize(
    "arguments",
    [
        (1 << 64, 0, 0, 0, 1, 1, 1),
        (-(1 << 63) - 1, 0, 0, 0, 1, 1, 1),
        (0, -1, 0, 0, 1, 1, 1),
        (0, 1 << 32, 0, 0, 1, 1, 1),
        (0, 0, 0, 0, 0, 1, 1),
        (0, 0, 0, 0, 1, 1, 0),
        (0, 0, -(1 << 31) - 1, 0, 1, 1, 1),
        (0, 0, 1 << 31, 0, 1, 1, 1),
    ],
)
def test_refuses_what_has_no_address(arguments):
    with pytest.raises(ValueError):
        field(*arguments)
