from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr_kernels import box2x2
from wsisr_kernels.box import cpu, reference


def image_of(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (2 * height, 2 * width, channels), dtype=np.uint8)


sizes = st.tuples(st.integers(1, 70), st.integers(1, 140), st.integers(1, 5))


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(0, 99))
def test_all_versions_agree(size, seed):
    image = image_of(*size, seed)
    expected = reference.box2x2(torch.from_numpy(image)).numpy()
    assert np.array_equal(box2x2(image), expected)
    assert np.array_equal(box2x2(torch.from_numpy(image)).numpy(), expected)
    compiled = np.empty_like(expected)
    cpu.box2x2_numba(image, compiled)
    assert np.array_equal(compiled, expected)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_sum_rounds_half_up(channels):
    """All sums 0..1020 of four values, laid out as one row of squares."""
    sums = np.arange(1021)
    parts = np.stack([(sums + k) // 4 for k in range(4)], axis=1).astype(np.uint8)
    image = parts.reshape(-1, 2, 2).transpose(1, 0, 2).reshape(2, -1, 1)
    image = np.repeat(image, channels, axis=2)
    expected = ((sums + 2) >> 2).astype(np.uint8)
    for c in range(channels):
        assert np.array_equal(box2x2(image)[0, :, c], expected)


def test_triton_agrees(triton_version: Callable[[str], ModuleType], device: torch.device):
    gpu = triton_version("box")
    for size in ((1, 1, 3), (7, 15, 3), (3, 400, 3), (5, 6, 1), (2, 9, 4)):
        image = torch.from_numpy(image_of(*size)).to(device)
        out = torch.empty(size, dtype=torch.uint8, device=device)
        gpu.box2x2(image, out)
        assert torch.equal(out, reference.box2x2(image))
    wide = torch.from_numpy(image_of(6, 12, 3)).to(device)
    view, room = wide[2:10, 4:20], torch.zeros((8, 20, 3), dtype=torch.uint8, device=device)
    gpu.box2x2(view, room[1:5, 3:11])
    assert torch.equal(room[1:5, 3:11], reference.box2x2(view))
    assert room.sum() == room[1:5, 3:11].sum()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_views_in_and_out(channels):
    image = image_of(40, 40, channels)
    view = image[2:50, 6:70]
    expected = reference.box2x2(torch.from_numpy(view.copy())).numpy()
    room = np.zeros((60, 60, channels), np.uint8)
    out = room[3:27, 5:37]
    assert box2x2(view, out=out) is out
    assert np.array_equal(out, expected)
    assert room.sum() == out.sum()
    planar = np.zeros((channels, 24, 32), np.uint8).transpose(1, 2, 0)
    box2x2(view, out=planar)
    assert np.array_equal(planar, expected)
    backwards = image[::-1, ::-1]
    expected = reference.box2x2(torch.from_numpy(backwards.copy())).numpy()
    assert np.array_equal(box2x2(backwards), expected)


def test_reads_read_only_pixels():
    image = np.broadcast_to(np.array([3, 200, 255], np.uint8), (8, 10, 3))
    assert (box2x2(image) == image[:4, :5]).all()


@pytest.mark.parametrize("shape", [(3, 4, 3), (4, 3, 3), (4, 4), (0, 4, 3), (4, 4, 0)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match="2 h, 2 w"):
        box2x2(np.zeros(shape, np.uint8))


def test_refuses_wrong_out_or_type():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="shape"):
        box2x2(image, out=np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        box2x2(image.astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        box2x2(image, out=np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match="numpy"):
        box2x2(image, out=torch.zeros((2, 2, 3), dtype=torch.uint8))
    with pytest.raises(ValueError, match="device"):
        box2x2(torch.from_numpy(image), out=np.zeros((2, 2, 3), np.uint8))
