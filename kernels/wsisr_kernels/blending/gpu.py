"""The blend in Triton: one program a stretch of one row of the window.

Launched without fused multiply-add, so that it rounds as the CPU does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _blend(  # type: ignore[no-untyped-def]
    window,
    left,
    above,
    ramp,
    out,
    below,
    faults,
    side,
    overlap,
    height,
    width,
    HAS_LEFT: tl.constexpr,
    HAS_ABOVE: tl.constexpr,
    HAS_BELOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = row + at * 0
    inside = at < side * 3
    value = tl.load(window + row * side * 3 + at, mask=inside, other=0).to(tl.float32)
    # Infinity minus itself is as little a number as NaN is; only finite values give zero.
    broken = (value - value) != 0.0
    tl.store(faults + y * 0, 1, mask=inside & broken)

    if HAS_LEFT:
        shared = inside & (at < overlap * 3)
        before = tl.load(left + row * overlap * 3 + at, mask=shared, other=0.0)
        weight = tl.load(ramp + at // 3, mask=shared, other=0.0)
        value = tl.where(shared, before + weight * (value - before), value)
    within = at < width * 3
    if HAS_BELOW:
        kept = within & (y >= side - overlap)
        tl.store(below + (row - (side - overlap)) * width * 3 + at, value, mask=kept)
    if HAS_ABOVE:
        leads = within & (y < overlap)
        before = tl.load(above + row * width * 3 + at, mask=leads, other=0.0)
        weight = tl.load(ramp + y, mask=leads, other=0.0)
        value = tl.where(leads, before + weight * (value - before), value)
    level = tl.minimum(tl.maximum(value + 0.5, 0.0), 255.0).to(tl.int32).to(tl.uint8)
    tl.store(out + row * width * 3 + at, level, mask=within & (y < height))


def blend_cell(
    window: torch.Tensor,
    left: torch.Tensor | None,
    above: torch.Tensor | None,
    ramp: torch.Tensor,
    out: torch.Tensor,
    below: torch.Tensor | None,
) -> bool:
    """See `wsisr_kernels.blend_cell`; all are C-contiguous tensors on one device."""
    side, overlap = len(window), len(ramp)
    height, width, _ = out.shape
    faults = torch.zeros(1, dtype=torch.int32, device=window.device)
    _blend[(triton.cdiv(side * 3, BLOCK), side)](
        window,
        ramp if left is None else left,
        ramp if above is None else above,
        ramp,
        out,
        ramp if below is None else below,
        faults,
        side,
        overlap,
        height,
        width,
        HAS_LEFT=left is not None and overlap > 0,
        HAS_ABOVE=above is not None and overlap > 0,
        HAS_BELOW=below is not None and overlap > 0,
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
    return not bool(faults.item())
