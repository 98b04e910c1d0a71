"""One finished cell of output from overlapping windows, in a single pass without accumulators."""

from __future__ import annotations

import torch

from wsisr_kernels.blending import cpu, reference
from wsisr_kernels.devices import uses_triton

__all__ = ["blend_cell"]


def blend_cell(
    window: torch.Tensor,
    left: torch.Tensor | None,
    above: torch.Tensor | None,
    ramp: torch.Tensor,
    out: torch.Tensor,
    below: torch.Tensor | None,
) -> bool:
    """Blends a window with what came before it on two sides, and rounds to uint8.

    With t = side - overlap and ramp[k] the weight of `window` k pixels inside its leading edge,
    pixel by pixel and in float32, each operation rounded on its own:

        line = left + ramp * (window - left)     in the first `overlap` columns, else window
        out = above + ramp * (line - above)      in the first `overlap` rows, else line
        out = floor(out + 1/2) clipped to 0..255
        below = line in the rows t to side - 1

    so the weights of the up to four windows under a pixel sum to one by construction, equal
    windows pass unchanged, and all versions agree bit for bit.

    All lie on one device: numba runs on the CPU, Triton on CUDA, plain torch elsewhere.

    Args:
        window: (side, side, 3) float32 or uint8 in 0..255, C-contiguous.
        left: float32 (side, overlap, 3), the last columns of the window to the left, or None.
        above: float32 (overlap, w, 3), what `below` received one window further up, or None.
        ramp: float32 (overlap,), rising from 0 to 1; overlap <= side / 2.
        out: uint8 (h, w, 3) to write the cell into, C-contiguous, h and w <= side.
        below: float32 (overlap, w, 3) to write into, not `above` itself, or None.

    Returns:
        Whether all of `window` is finite; if not, what was written is meaningless.

    Raises:
        ValueError: a shape, type, layout or device is not as above.
    """
    _check(window, left, above, ramp, out, below)
    if uses_triton(window.device):
        from wsisr_kernels.blending.gpu import blend_cell as blend_cell_triton

        return blend_cell_triton(window, left, above, ramp, out, below)
    if window.device.type == "cpu":
        return cpu.blend_cell(window, left, above, ramp, out, below)
    return reference.blend_cell(window, left, above, ramp, out, below)


def _check(
    window: torch.Tensor,
    left: torch.Tensor | None,
    above: torch.Tensor | None,
    ramp: torch.Tensor,
    out: torch.Tensor,
    below: torch.Tensor | None,
) -> None:
    """Checks the arguments of `blend_cell`."""
    side, overlap = len(window), len(ramp)
    if tuple(window.shape) != (side, side, 3) or 2 * overlap > side:
        raise ValueError(
            f"a window {tuple(window.shape)} with an overlap of {overlap} is not "
            "(side, side, 3) with at most half of it shared"
        )
    height, width = out.shape[0], out.shape[1]
    if tuple(out.shape) != (height, width, 3) or not 0 < height <= side or not 0 < width <= side:
        raise ValueError(f"a cell {tuple(out.shape)} does not fit a window of side {side}")
    if window.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"a window of {window.dtype} is neither float32 nor uint8")
    wanted = {
        "window": (window, (side, side, 3), window.dtype),
        "left": (left, (side, overlap, 3), torch.float32),
        "above": (above, (overlap, width, 3), torch.float32),
        "ramp": (ramp, (overlap,), torch.float32),
        "out": (out, (height, width, 3), torch.uint8),
        "below": (below, (overlap, width, 3), torch.float32),
    }
    for name, (item, shape, dtype) in wanted.items():
        if item is None:
            continue
        if tuple(item.shape) != shape or item.dtype != dtype or not item.is_contiguous():
            raise ValueError(f"{name} is not a C-contiguous {dtype} tensor {shape}")
        if item.device != window.device:
            raise ValueError(f"{name} lies on {item.device}, the window on {window.device}")
