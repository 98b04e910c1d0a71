"""Colour fix: the generated image keeps its detail and takes the restored image's colours."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WAVELET_LEVELS = 5
WAVELET_HALO = 2**WAVELET_LEVELS - 1
"""Farthest pixel that can influence a fixed one: 1 + 2 + 4 + 8 + 16 = 31 px."""


def wavelet_low_pass(image: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """The coarse approximation of an undecimated à-trous wavelet transform.

    Args:
        image: (B, C, H, W) float.
        levels: the kernel (1 2 1)/4 is applied with gaps 1, 2, 4 … 2^(levels-1).

    Returns:
        (B, C, H, W); edges are mirrored, or repeated where the image is too small to mirror.
    """
    channels = image.shape[1]
    kernel = image.new_tensor((0.25, 0.5, 0.25)).repeat(channels, 1, 1, 1)
    for level in range(levels):
        gap = 2**level
        for shape, pad, dilation, size in (
            ((channels, 1, 3, 1), (0, 0, gap, gap), (gap, 1), image.shape[2]),
            ((channels, 1, 1, 3), (gap, gap, 0, 0), (1, gap), image.shape[3]),
        ):
            mode = "reflect" if size > gap else "replicate"
            padded = F.pad(image, pad, mode=mode)
            image = F.conv2d(padded, kernel.view(shape), dilation=dilation, groups=channels)
    return image


def wavelet_color_fix(content: Tensor, style: Tensor) -> Tensor:
    """Detail of `content` on the colours of `style`, both (B, C, H, W) float.

    The sum of all detail bands telescopes to content - low(content), so the fix is linear and its
    reach is exactly `WAVELET_HALO` px.
    """
    return content + wavelet_low_pass(style - content)


def adain_color_fix(content: Tensor, style: Tensor) -> Tensor:
    """Mean and standard deviation of each channel of `content` set to those of `style`.

    Statistics are those of the whole window: with tiles this can show as steps of colour, so the
    wavelet fix is the default.
    """
    dims = (2, 3)
    mean, deviation = content.mean(dims, keepdim=True), content.std(dims, keepdim=True)
    scaled = (content - mean) / deviation.clamp_min(1e-5)
    return scaled * style.std(dims, keepdim=True) + style.mean(dims, keepdim=True)


COLOR_FIXES = {"wavelet": wavelet_color_fix, "adain": adain_color_fix}
