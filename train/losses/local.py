"""Luma, windows and spectra that the image losses share; images are (B, C, H, W)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor


def luma(x: Tensor) -> Tensor:
    """Gives the mean of the channels, (B, 1, H, W)."""
    return x.mean(1, keepdim=True)


def window_means(x: Tensor, window: int) -> Tensor:
    """Gives the means of half-overlapping windows of `window` px a side."""
    return F.avg_pool2d(x, window, window // 2)


def gaussian_window(reach: int, sigma: float, device: torch.device) -> Tensor:
    """Gives a Gaussian's values at the integers from -reach to reach, 1 in the middle."""
    axis = torch.arange(-reach, reach + 1, device=device)
    return torch.exp(-(axis**2) / (2 * sigma**2))


def windows(x: Tensor, window: int) -> Tensor:
    """Gives the luma of half-overlapping windows, (B, windows, pixels)."""
    return F.unfold(luma(x), window, stride=window // 2).transpose(1, 2)


def power_spectra(x: Tensor, window: int) -> Tensor:
    """Gives the power spectra of luma in half-overlapping windows.

    Each window is freed of its mean and tapered by a Hann window.

    Args:
        x: images.
        window: side in px.

    Returns:
        (B, windows, window, window / 2 + 1).
    """
    hann = torch.hann_window(window, device=x.device)
    parts = windows(x, window)
    parts = parts - parts.mean(2, keepdim=True)
    parts = parts.reshape(*parts.shape[:2], window, window) * (hann[:, None] * hann)
    return cast(Tensor, torch.fft.rfft2(parts).abs().square())


def normalized_luma(luma: Tensor, side: int = 7) -> tuple[Tensor, ...]:
    """Normalises luma locally, and multiplies it with its neighbours.

    Args:
        luma: (B, 1, H, W) in [0, 1].
        side: of the Gaussian window over which mean and deviation are taken, in px.

    Returns:
        Luma less its local mean, over its local deviation; and its products with four neighbours.
    """
    bell = gaussian_window(side // 2, side / 6, luma.device)
    kernel = bell[:, None] * bell / bell.sum() ** 2
    mean, square = (F.conv2d(v, kernel[None, None]) for v in (luma, luma.square()))
    deviation = ((square - mean.square()).clamp_min(0) + 1e-6).sqrt()
    edge = side // 2
    x = (luma[..., edge:-edge, edge:-edge] - mean) / (deviation + 1 / 255)
    rows, columns = x.shape[2] - 1, x.shape[3] - 1
    here, aside = x[:, :, :rows, :columns], x[:, :, :rows, 1:]
    below, across = x[:, :, 1:, :columns], x[:, :, 1:, 1:]
    return x, here * aside, here * below, here * across, aside * below
