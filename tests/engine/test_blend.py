from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr.engine.blend import Cell, CellBlender
from wsisr.errors import ModelError, WsisrError
from wsisr.plan import Plan, Rect
from wsisr_kernels import blend_margin, blend_ramp

Windows = Callable[[int, int], np.ndarray]


def plan_of(width: int, height: int, tile: int, overlap: int, region: Rect | None = None) -> Plan:
    return Plan(width, height, 1.0, region or Rect(0, 0, width, height), tile, overlap)


@st.composite
def plans(draw: st.DrawFn, *, whole: bool = False) -> Plan:
    tile = 8 * draw(st.integers(1, 5))
    overlap = draw(st.integers(0, tile // 2))
    width, height = draw(st.integers(1, 130)), draw(st.integers(1, 130))
    if whole:
        return plan_of(width, height, tile, overlap)
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    region = Rect(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))
    return plan_of(width, height, tile, overlap, region)


def random_windows(plan: Plan, seed: int) -> Windows:
    """Float windows that overshoot the range a little, and some uint8 ones as glass gives."""

    def window(row: int, column: int) -> np.ndarray:
        rng = np.random.default_rng((seed, row, column))
        if rng.random() < 0.25:
            return rng.integers(0, 256, (plan.window, plan.window, 3), dtype=np.uint8)
        return rng.uniform(-20, 275, (plan.window, plan.window, 3)).astype(np.float32)

    return window


def cells(plan: Plan, windows: Windows) -> Iterator[Cell]:
    blender = CellBlender(plan)
    for window in plan.windows():
        cell = blender.push(window.row, window.column, windows(window.row, window.column))
        if cell is not None:
            yield cell


def assemble(plan: Plan, windows: Windows) -> np.ndarray:
    """The region's pixels; asserts that cells cover each of them exactly once."""
    region = plan.region
    image = np.zeros((region.height, region.width, 3), np.uint8)
    covered = np.zeros(image.shape[:2], np.int64)
    for cell in cells(plan, windows):
        height, width, _ = cell.pixels.shape
        assert region.x <= cell.x
        assert region.y <= cell.y
        assert cell.x + width <= region.right
        assert cell.y + height <= region.bottom
        rows = slice(cell.y - region.y, cell.y - region.y + height)
        columns = slice(cell.x - region.x, cell.x - region.x + width)
        image[rows, columns] = cell.pixels
        covered[rows, columns] += 1
    assert (covered == 1).all()
    return image


def axis_weights(count: int, size: int, tile: int, overlap: int) -> np.ndarray:
    """Weight of every window at every position of an axis, float64 (count, size)."""
    rim = overlap // 4
    inner = overlap - 2 * rim
    middle = 0.5 - 0.5 * np.cos(np.pi * (np.arange(inner) + 0.5) / max(inner, 1))
    rise = np.concatenate((np.zeros(rim), middle, np.ones(rim)))
    weights = np.zeros((count, count * (tile - overlap) + tile))
    for index in range(count):
        profile = np.ones(tile)
        if index > 0:
            profile[:overlap] = rise
        if index < count - 1:
            profile[tile - overlap :] = rise[::-1]
        start = index * (tile - overlap)
        weights[index, start : start + tile] = profile
    return weights[:, :size]


def accumulated(plan: Plan, windows: Windows) -> np.ndarray:
    """Every window of the whole slide times its weights, summed in float64: the definition."""
    width, height = plan.columns.size, plan.rows.size
    rows = axis_weights(plan.rows.count, height, plan.window, plan.overlap)
    columns = axis_weights(plan.columns.count, width, plan.window, plan.overlap)
    image = np.zeros((height, width, 3))
    for row in range(plan.rows.count):
        for column in range(plan.columns.count):
            y, x = row * plan.rows.stride, column * plan.columns.stride
            h, w = min(plan.window, height - y), min(plan.window, width - x)
            weight = np.outer(rows[row, y : y + h], columns[column, x : x + w])
            image[y : y + h, x : x + w] += weight[..., None] * windows(row, column)[:h, :w]
    return image


@settings(max_examples=60, deadline=None)
@given(plans(whole=True), st.integers(0, 99))
def test_equals_the_accumulated_windows(plan, seed):
    windows = random_windows(plan, seed)
    exact = np.clip(accumulated(plan, windows), 0, 255)
    result = assemble(plan, windows)
    # half a level of rounding, and float32's own error at a tie
    assert np.abs(result - exact).max() <= 0.5 + 1e-4


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 99))
def test_a_region_has_the_pixels_of_the_whole(plan, seed):
    windows = random_windows(plan, seed)
    region = plan.region
    whole = assemble(plan_of(plan.columns.size, plan.rows.size, plan.window, plan.overlap), windows)
    part = assemble(plan, windows)
    assert np.array_equal(part, whole[region.y : region.bottom, region.x : region.right])


@settings(max_examples=40, deadline=None)
@given(plans(), st.floats(0, 255, width=32), st.booleans())
def test_equal_windows_pass_unchanged(plan, value, glass):
    kind = np.uint8 if glass else np.float32
    constant = np.full((plan.window, plan.window, 3), value, dtype=kind)
    expected = int(np.floor(np.float32(constant.flat[0]) + np.float32(0.5)))
    assert (assemble(plan, lambda row, column: constant) == expected).all()


@given(st.integers(0, 300))
def test_ramp_and_its_mirror_sum_to_one(overlap):
    weights = blend_ramp(overlap)
    assert weights.dtype == np.float32
    assert weights.shape == (overlap,)
    assert np.abs(weights + weights[::-1] - 1).max(initial=0) <= 1e-6
    margin = blend_margin(overlap)
    assert (weights[:margin] == 0).all()
    assert (weights[overlap - margin :] == 1).all()
    middle = weights[margin : overlap - margin]
    assert (np.diff(middle) > 0).all()
    assert ((middle > 0) & (middle < 1)).all()


@pytest.mark.parametrize("overlap", [1, 2, 3, 4, 8, 32, 63, 64])
def test_ramp_is_a_raised_cosine_between_the_margins(overlap):
    margin = overlap // 4
    inner = overlap - 2 * margin
    centres = (np.arange(inner) + 0.5) / inner
    middle = blend_ramp(overlap)[margin : overlap - margin]
    assert np.allclose(middle, np.sin(np.pi / 2 * centres) ** 2, atol=1e-7)


def test_the_rim_of_a_window_that_another_covers_has_no_weight():
    """A network's padding spoils it."""
    plan = plan_of(56, 56, 24, 8)

    def spoilt(row: int, column: int) -> np.ndarray:
        window = np.full((24, 24, 3), 100, np.float32)
        for axis, index in enumerate((row, column)):
            along = window if axis == 0 else window.transpose(1, 0, 2)
            along[: 2 * (index > 0)] = 255
            along[24 - 2 * (index < 2) :] = 255
        return window

    assert (assemble(plan, spoilt) == 100).all()


def test_halves_round_up_and_the_range_is_kept():
    plan = plan_of(8, 8, 8, 4)
    values = np.array([0.5, 1.5, 2.5, 254.5, 254.49, -3.0, 300.0, 255.4], np.float32)
    window = np.repeat(np.tile(values, (8, 1))[..., None], 3, axis=2)
    assert assemble(plan, lambda row, column: window)[0, :, 0].tolist() == [
        *(1, 2, 3, 255, 254, 0, 255, 255)
    ]


def test_seams_do_not_depend_on_what_happens_to_a_pushed_window():
    plan = plan_of(60, 60, 24, 8)
    windows = random_windows(plan, 1)
    shared: dict[type, np.ndarray] = {}

    def reused(row: int, column: int) -> np.ndarray:
        window = windows(row, column)
        room = shared.setdefault(window.dtype.type, np.empty_like(window))
        room[...] = window
        return room

    assert np.array_equal(assemble(plan, reused), assemble(plan, windows))


def test_finished_pixels_are_the_callers_to_keep():
    plan = plan_of(60, 60, 24, 8)
    kept = list(cells(plan, random_windows(plan, 2)))
    fresh = list(cells(plan, random_windows(plan, 2)))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(kept, fresh, strict=True))
    assert not any(np.shares_memory(a.pixels, b.pixels) for a, b in pairwise(kept))


def test_takes_views_tensors_and_read_only_arrays():
    plan = plan_of(60, 60, 24, 8)
    windows = random_windows(plan, 3)
    expected = assemble(plan, windows)
    planar = lambda r, c: np.ascontiguousarray(windows(r, c).transpose(2, 0, 1)).transpose(1, 2, 0)  # noqa: E731
    assert np.array_equal(assemble(plan, planar), expected)
    tensors = lambda r, c: torch.from_numpy(windows(r, c))  # noqa: E731
    assert np.array_equal(assemble(plan, tensors), expected)
    blank = np.broadcast_to(np.array([240, 238, 241], np.uint8), (24, 24, 3))
    assert (assemble(plan, lambda r, c: blank) == blank[0, 0]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0, 0), (23, 23, 2), (5, 20, 1), (20, 5, 1), (12, 12, 0)])
def test_names_the_window_that_is_not_finite(value, place):
    plan = plan_of(60, 60, 24, 8)
    blender = CellBlender(plan)
    good = np.zeros((24, 24, 3), np.float32)
    bad = good.copy()
    bad[place] = value
    blender.push(0, 0, good)
    with pytest.raises(WsisrError, match=r"window \(0, 1\) at output pixel 16,0") as caught:
        blender.push(0, 1, bad)
    assert isinstance(caught.value, ModelError)


def test_refuses_windows_out_of_order_or_of_another_size():
    plan = plan_of(60, 60, 24, 8)
    window = np.zeros((24, 24, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        CellBlender(plan).push(0, 1, window)
    with pytest.raises(ValueError, match="window"):
        CellBlender(plan).push(0, 0, window[:16, :16])
    with pytest.raises(ValueError, match="float64"):
        CellBlender(plan).push(0, 0, window.astype(np.float64))
    small = plan_of(20, 20, 24, 8)
    blender = CellBlender(small)
    blender.push(0, 0, window)
    with pytest.raises(ValueError, match="None"):
        blender.push(0, 0, window)


def test_memory_does_not_grow_with_the_height():
    plan = plan_of(100, 3000, 24, 8)
    blender = CellBlender(plan)
    window = np.zeros((24, 24, 3), np.float32)
    stride, strip = 16, 8 * 12
    for item in plan.windows():
        blender.push(item.row, item.column, window)
        held = [*blender._above.values(), *blender._spare]
        wide = sum(t.numel() * t.element_size() for t in held)
        assert wide <= (100 + stride + plan.window) * strip
        assert len(held) <= plan.columns.count + 2
