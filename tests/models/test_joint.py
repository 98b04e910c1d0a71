from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wsisr.models.joint import averaged, block_side


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 4))
def test_weights_sum_to_one(overlap: int) -> None:
    side = block_side(8, overlap)
    z = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(averaged(lambda a, b: a + b, z, z, 8, overlap), 2 * z)


def test_windows_weigh_alike_from_both_sides() -> None:
    """What one window says at k the other says at the mirrored place."""
    side = block_side(8, 4)
    calls: list[int] = []

    def first_alone(z: Tensor, condition: Tensor) -> Tensor:
        calls.append(1)
        return torch.full_like(z, float(len(calls) in (1, 3)))

    weight = averaged(
        first_alone, torch.zeros(1, 1, side, side), torch.zeros(1, 1, side, side), 8, 4
    )
    line = weight[0, 0, 0]
    torch.testing.assert_close(line, 1 - line.flip(0))
    assert len(calls) == 4


def test_half_precision_predictions_are_averaged_in_single() -> None:
    z = torch.randn(1, 2, 12, 12)
    out = averaged(lambda a, b: a.bfloat16(), z, z, 8, 4)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, z.bfloat16().float())
