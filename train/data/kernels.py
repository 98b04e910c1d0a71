"""Kernels, filters and codecs that the degradations are made of."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Floats = NDArray[np.float64]


def mixed_kernels(rng: np.random.Generator, count: int, sigma: tuple[float, float]) -> Tensor:
    """Draws Real-ESRGAN's kernels (Wang et al. 2021).

    They are Gaussians, generalised Gaussians and plateaus, each round or elongated, and now and
    then a sinc; 7 to 21 px wide.

    Args:
        rng: where randomness comes from.
        count: how many.
        sigma: range of their widths in px.

    Returns:
        (count, 21, 21) float32 that sum to one.
    """
    half = rng.integers(3, 11, count)
    kind = rng.choice(6, count, p=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03))
    round_ = kind % 2 == 0
    sigma_x, sigma_y = rng.uniform(*sigma, (2, count))
    angle = rng.uniform(-np.pi, np.pi, count)
    flat = rng.random(count) < 0.5
    general = np.where(flat, rng.uniform(0.5, 1, count), rng.uniform(1, 4, count))
    plateau = np.where(flat, 1.0, rng.uniform(1, 2, count))
    widest = np.where(half < 6, np.pi / 3, np.pi / 5)
    cutoff = widest + rng.random(count) * (np.pi - widest)
    is_sinc = rng.random(count) < 0.1
    power = np.select((kind < 2, kind < 4), (np.ones(count), general), plateau)
    shaped = shaped_kernels(
        sigma_x, np.where(round_, sigma_x, sigma_y), angle, 21, power, kind >= 4, half
    )
    return choose(is_sinc, sinc_kernels(cutoff, 21, half), shaped)


def shaped_kernels(
    sigma_x: Floats,
    sigma_y: Floats,
    angle: Floats,
    size: int,
    power: Floats | float = 1.0,
    plateau: NDArray[np.bool_] | bool = False,
    half: NDArray[np.int64] | None = None,
) -> Tensor:
    """Makes bell-shaped kernels that sum to one.

    With q the squared distance in units of sigma: exp(-q^power / 2), a Gaussian at power 1; or
    1 / (1 + q^power) for a plateau.

    Args:
        sigma_x: (n,) widths in px along the kernel's axis, above 0.
        sigma_y: (n,) widths in px across the kernel's axis, above 0.
        angle: (n,) direction of the axis, radians.
        size: side in px, odd.
        power: (n,), or one for all.
        plateau: (n,) whether the kernel is a plateau, or one for all.
        half: (n,) the kernel reaches so far from its centre; by default to its edge.

    Returns:
        (n, size, size) float32.
    """
    dx, dy = _offsets(size)
    cos, sin = (f(angle)[:, None, None] for f in (np.cos, np.sin))
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    q = (along / sigma_x[:, None, None]) ** 2 + (across / sigma_y[:, None, None]) ** 2
    power = np.broadcast_to(power, sigma_x.shape)[:, None, None]
    plateau = np.broadcast_to(plateau, sigma_x.shape)[:, None, None]
    # q^power grows beyond all numbers where sigma is small; its kernel is zero long before
    powered = np.minimum(q, 1e6) ** power
    weights = np.where(plateau, 1 / (1 + powered), np.exp(-0.5 * powered))
    return _normalised(weights, half)


def sinc_kernels(cutoff: Floats, size: int, half: NDArray[np.int64] | None = None) -> Tensor:
    """Makes circular ideal low-pass kernels that sum to one.

    Args:
        cutoff: (n,) angular frequency, radians a px, up to pi.
        size: side in px, odd.
        half: see `shaped_kernels`.

    Returns:
        (n, size, size) float32.
    """
    dx, dy = _offsets(size)
    radius = np.hypot(dx, dy)
    middle = radius == 0
    radius = np.where(middle, 1.0, radius)
    wave = torch.special.bessel_j1(torch.from_numpy(cutoff[:, None, None] * radius)).numpy()
    weights = cutoff[:, None, None] * wave / (2 * np.pi * radius)
    return _normalised(np.where(middle, cutoff[:, None, None] ** 2 / (4 * np.pi), weights), half)


def filter2d(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolves each image of (B, C, H, W) with its own kernel of (B, K, K), borders reflected."""
    height, width = images.shape[2:]
    reach = kernels.shape[-1] // 2
    mode = "reflect" if reach < min(height, width) else "replicate"
    padded = F.pad(images, (reach,) * 4, mode=mode)
    size = padded.shape[-2:]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, s=size)[:, None]
    out: Tensor = torch.fft.irfft2(spectrum, s=size)
    return out[..., 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def jpeg(
    images: Tensor, quality: NDArray[np.int64], subsampling: NDArray[np.int64] | None = None
) -> Tensor:
    """Sends images through JPEG files, each of its own quality.

    Args:
        images: (B, 3, h, w) float; clipped to [0, 1].
        quality: (B,) from 1 to 100.
        subsampling: (B,) 0, 1, 2 for 4:4:4, 4:2:2, 4:2:0; by default 4:2:0.

    Returns:
        The decoded images, on the 8-bit grid.
    """
    chroma = np.full(len(images), 2) if subsampling is None else subsampling
    levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    coded = [
        jpeg_roundtrip(level, int(quality[i]), int(chroma[i])) for i, level in enumerate(levels)
    ]
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).float() / 255


def jpeg_roundtrip(
    pixels: NDArray[np.uint8], quality: int, subsampling: int = 2
) -> NDArray[np.uint8]:
    """Sends (h, w, 3) uint8 through a JPEG; subsampling 0, 1, 2 is 4:4:4, 4:2:2, 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


def per_image(values: Floats) -> Tensor:
    """Shapes numbers (n,) so that they multiply images (n, 3, h, w), one each."""
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)


def choose(condition: NDArray[np.bool_], yes: Tensor, no: Tensor) -> Tensor:
    """Takes each image of a batch from one of two batches."""
    return torch.where(torch.from_numpy(condition).view(-1, *[1] * (yes.ndim - 1)), yes, no)


def identity_kernels(kernels: Tensor) -> Tensor:
    """Makes kernels that change nothing, of the same shape."""
    one = torch.zeros_like(kernels)
    one[:, kernels.shape[1] // 2, kernels.shape[2] // 2] = 1
    return one


def _offsets(size: int) -> tuple[Floats, Floats]:
    """Gives the distances of pixels from the middle, along columns and rows."""
    axis = np.arange(size, dtype=np.float64) - size // 2
    dy, dx = np.meshgrid(axis, axis, indexing="ij")
    return dx, dy


def _normalised(weights: Floats, half: NDArray[np.int64] | None) -> Tensor:
    """Cuts kernels off at their reach and scales them to a sum of one."""
    if half is not None:
        dx, dy = _offsets(weights.shape[-1])
        reach = np.maximum(abs(dx), abs(dy))
        weights = np.where(reach <= half[:, None, None], weights, 0.0)
    weights = weights / weights.sum((1, 2), keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))
