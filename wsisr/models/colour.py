"""Colour fix: the generated image keeps its detail and takes the restored image's colours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WAVELET_LEVELS = 5
WAVELET_HALO = 2**WAVELET_LEVELS - 1
"""Farthest pixel that can influence a fixed one: 1 + 2 + 4 + 8 + 16 = 31 px."""


def wavelet_low_pass(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """Computes the coarse approximation of an undecimated à-trous wavelet transform.

    Args:
        image: (B, C, H, W) float.
        levels: the kernel (1 2 1)/4 is applied with gaps 1, 2, 4 … 2^(levels-1).

    Returns:
        (B, C, H, W); edges are mirrored, or repeated where the image is too small to mirror.
    """
    # shifted sums, in planes: a convolution of one channel a group is ten times slower
    image = image.contiguous()
    for level in range(levels):
        gap = 2**level
        for dim, pad in ((2, (0, 0, gap, gap)), (3, (gap, gap, 0, 0))):
            size = image.shape[dim]
            padded = F.pad(image, pad, mode="reflect" if size > gap else "replicate")
            before, here, after = (padded.narrow(dim, i * gap, size) for i in range(3))
            image = torch.add(0.25 * (before + after), here, alpha=0.5)
    return image


def wavelet_color_fix(content: Tensor, style: Tensor) -> Tensor:
    """Lays the detail of `content` on the colours of `style`.

    The sum of all detail bands telescopes to content - low(content), so the fix is linear and its
    reach is exactly `WAVELET_HALO` px.

    Args:
        content: (B, C, H, W) float.
        style: of the same shape.

    Returns:
        Of the same shape, not clipped.
    """
    return content + wavelet_low_pass(style - content)


def adain_color_fix(content: Tensor, style: Tensor) -> Tensor:
    """Gives each channel of `content` the mean and standard deviation of `style`'s.

    Statistics are those of the whole window: beside other windows this can show as steps of colour,
    so the wavelet fix is the default (Huang and Belongie 2017).

    Args:
        content: (B, C, H, W) float.
        style: of the same shape.

    Returns:
        Of the same shape, not clipped.
    """
    dims = (2, 3)
    mean, deviation = content.mean(dims, keepdim=True), content.std(dims, keepdim=True)
    scaled = (content - mean) / deviation.clamp_min(1e-5)
    return scaled * style.std(dims, keepdim=True) + style.mean(dims, keepdim=True)


COLOR_FIXES = {"wavelet": wavelet_color_fix, "adain": adain_color_fix}
