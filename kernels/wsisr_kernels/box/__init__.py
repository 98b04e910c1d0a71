"""The 2x2 box filter that makes one pyramid level from the next finer one."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr_kernels.box import cpu, reference
from wsisr_kernels.devices import uses_triton

__all__ = ["box2x2"]


@overload
def box2x2(image: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]: ...
@overload
def box2x2(image: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor: ...
def box2x2(
    image: NDArray[np.uint8] | torch.Tensor, out: NDArray[np.uint8] | torch.Tensor | None = None
) -> NDArray[np.uint8] | torch.Tensor:
    """Mean of each 2x2 square, halves rounded up: (a + b + c + d + 2) >> 2.

    Args:
        image: uint8 (2 h, 2 w, channels), a numpy array or a torch tensor on any device; views
            of larger images are taken as they are.
        out: uint8 (h, w, channels) of the same kind to write into; made if absent.

    Returns:
        uint8 (h, w, channels): `out` where given, else new and C-contiguous.

    Raises:
        ValueError: a shape or type is not as above, or `out` is of another kind than `image`.
    """
    if image.ndim != 3 or image.shape[0] % 2 or image.shape[1] % 2 or 0 in image.shape:
        raise ValueError(f"box2x2 needs an image (2 h, 2 w, channels), not {tuple(image.shape)}")
    shape = (image.shape[0] // 2, image.shape[1] // 2, image.shape[2])
    if out is not None and tuple(out.shape) != shape:
        raise ValueError(f"box2x2 needs an out of shape {shape}, not {tuple(out.shape)}")

    if isinstance(image, np.ndarray):
        if isinstance(out, torch.Tensor):
            raise ValueError("box2x2 of a numpy array writes into a numpy array")
        if image.dtype != np.uint8 or (out is not None and out.dtype != np.uint8):
            raise ValueError("box2x2 needs uint8 images")
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        cpu.box2x2(image, out)
        return out

    if isinstance(out, np.ndarray) or (out is not None and out.device != image.device):
        raise ValueError("box2x2 of a tensor writes into a tensor on the same device")
    if image.dtype != torch.uint8 or (out is not None and out.dtype != torch.uint8):
        raise ValueError("box2x2 needs uint8 images")
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8, device=image.device)
    if uses_triton(image.device):
        from wsisr_kernels.box.gpu import box2x2 as box2x2_triton

        box2x2_triton(image, out)
    elif image.device.type == "cpu":
        cpu.box2x2(image.numpy(), out.numpy())
    else:
        out.copy_(reference.box2x2(image))
    return out
