"""The blend in plain torch, on any device: one operation at a time, as its definition reads."""

from __future__ import annotations

import torch


def blend_cell(
    window: torch.Tensor,
    left: torch.Tensor | None,
    above: torch.Tensor | None,
    ramp: torch.Tensor,
    out: torch.Tensor,
    below: torch.Tensor | None,
) -> bool:
    """See `wsisr_kernels.blend_cell`; all are tensors."""
    height, width, _ = out.shape
    overlap = len(ramp)
    line = window[:, :width].to(torch.float32, copy=True)
    if left is not None:
        n = min(overlap, width)
        line[:, :n] = left[:, :n] + ramp[:n, None] * (line[:, :n] - left[:, :n])
    if below is not None:
        below.copy_(line[len(window) - overlap :])
    cell = line[:height]
    if above is not None:
        n = min(overlap, height)
        cell[:n] = above[:n] + ramp[:n, None, None] * (cell[:n] - above[:n])
    finite = bool(torch.isfinite(window).all())
    out.copy_(torch.nan_to_num(cell + 0.5).clamp(0, 255).to(torch.uint8))
    return finite
