from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisr_kernels import blend_cell
from wsisr_kernels.blending import reference


def inputs(
    tile: int, overlap: int, height: int, width: int, neighbours: tuple[bool, ...], glass: bool
) -> list[torch.Tensor | None]:
    """window, left, above, ramp, out, below; `out` and `below` filled with a mark."""
    rng = np.random.default_rng((tile, overlap, height, width))
    has_left, has_above, has_below = neighbours

    def floats(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(-20, 275, shape).astype(np.float32))

    window = floats(tile, tile, 3)
    if glass:
        window = window.clamp(0, 255).to(torch.uint8)
    return [
        window,
        floats(tile, overlap, 3) if has_left else None,
        floats(overlap, width, 3) if has_above else None,
        torch.linspace(0.01, 0.99, overlap),
        torch.full((height, width, 3), 77, dtype=torch.uint8),
        torch.full((overlap, width, 3), -7.0) if has_below else None,
    ]


def assert_agree(
    version: Callable[..., bool], given_inputs: list[torch.Tensor | None], device: torch.device
) -> None:
    one = [None if t is None else t.clone() for t in given_inputs]
    other = [None if t is None else t.clone().to(device) for t in given_inputs]
    assert reference.blend_cell(*one)
    assert version(*other)
    for ours, theirs in zip(one, other, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert torch.equal(ours, theirs.cpu())


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_compiled_equals_reference(data):
    tile = data.draw(st.integers(1, 40))
    overlap = data.draw(st.integers(0, tile // 2))
    height, width = data.draw(st.integers(1, tile)), data.draw(st.integers(1, tile))
    neighbours = data.draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
    items = inputs(tile, overlap, height, width, neighbours, data.draw(st.booleans()))
    assert_agree(blend_cell, items, torch.device("cpu"))


@pytest.mark.parametrize("glass", [False, True])
@pytest.mark.parametrize("neighbours", [(False, False, False), (True, True, True), (True, 0, 1)])
@pytest.mark.parametrize(
    ("tile", "overlap", "height", "width"), [(16, 8, 8, 8), (9, 3, 7, 9), (8, 0, 8, 5)]
)
def test_triton_equals_reference(
    triton_version: Callable[[str], ModuleType],
    device: torch.device,
    tile: int,
    overlap: int,
    height: int,
    width: int,
    neighbours: tuple[bool, ...],
    glass: bool,
):
    gpu = triton_version("blending")
    items = inputs(tile, overlap, height, width, neighbours, glass)
    assert_agree(gpu.blend_cell, items, device)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter is numpy
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_all_versions_notice_what_is_not_finite(
    triton_version: Callable[[str], ModuleType], device: torch.device, value: float
):
    items = inputs(8, 4, 4, 4, (True, True, True), False)
    assert items[0] is not None
    items[0][7, 7, 2] = value
    assert not reference.blend_cell(*items)
    assert not blend_cell(*items)
    moved = [None if t is None else t.to(device) for t in items]
    assert not triton_version("blending").blend_cell(*moved)


def test_refuses_what_does_not_fit():
    good = inputs(8, 4, 4, 4, (True, True, True), False)
    names = ["window", "left", "above", "ramp", "out", "below"]
    for index, name in enumerate(names):
        items = list(good)
        item = items[index]
        assert item is not None
        items[index] = item.double()
        with pytest.raises(ValueError, match="float64" if name == "window" else name):
            blend_cell(*items)
        if item.ndim == 3 and name not in ("window", "out"):
            items[index] = item[:-1]
            with pytest.raises(ValueError, match=name):
                blend_cell(*items)
            items[index] = item.permute(2, 0, 1).contiguous().permute(1, 2, 0)
            with pytest.raises(ValueError, match=name):
                blend_cell(*items)
    with pytest.raises(ValueError, match="half"):
        blend_cell(*inputs(8, 5, 4, 4, (False, False, False), False))
    with pytest.raises(ValueError, match="does not fit"):
        blend_cell(*inputs(8, 4, 9, 4, (False, False, False), False))
