"""Low-resolution versions of high-resolution crops, made at training time.

`area` is what the low-resolution file of a scanner pair is: the box mean over scale x scale
pixels, rounded to 8 bits. `scanner` adds, to a random quarter of a batch, what real low-power scans
add: optical blur before sampling, sensor noise, JPEG.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wsisr.models.consistency import Sampling, project
from wsisr.plan import make_plan

ROUGH = 0.25  # part of a batch that gets more than the area mean
BLUR_RADIUS = 6  # px at high resolution; covers 3 sigma of the widest optical blur


def degrade(hr: Tensor, scale: int, rng: np.random.Generator, kind: str = "scanner") -> Tensor:
    """Degrade a batch.

    Args:
        hr: (B, 3, H, W) float in [0, 1]; H and W are multiples of `scale`.
        scale: integer factor.
        rng: where randomness comes from; consumed in the same way whatever the content.
        kind: `area` or `scanner`.

    Returns:
        (B, 3, H / scale, W / scale) float in [0, 1] on the 8-bit grid.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in ("area", "scanner"):
        raise ValueError(f"degradation {kind!r} is not one of area, scanner")
    batch = hr.shape[0]
    rough = rng.random(batch) < (ROUGH if kind == "scanner" else 0.0)
    sigma = np.where(rough, rng.uniform(0.1, 0.35, batch) * scale, 0.0)
    noise = np.where(rough, rng.uniform(0.0, 2.0, batch), 0.0)
    quality = rng.integers(70, 97, batch)
    if rough.any():
        hr = gaussian_blur(hr, sigma)
    lr = F.avg_pool2d(hr, scale)
    grain = torch.from_numpy(rng.standard_normal(lr.shape, np.float32))
    lr = lr + grain * torch.from_numpy((noise / 255).astype(np.float32)).view(-1, 1, 1, 1)
    levels = (lr.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for i in np.flatnonzero(rough):
        levels[i] = jpeg_roundtrip(levels[i], int(quality[i]))
    return torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255


def gaussian_blur(images: Tensor, sigma: NDArray[np.float64]) -> Tensor:
    """Blur each image of (B, 3, H, W) by its own sigma in px; sigma 0 leaves it unchanged."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float32)
    width = torch.from_numpy(np.maximum(sigma, 1e-3).astype(np.float32))[:, None]
    kernel = torch.exp(-0.5 * (offsets[None] / width) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    b, c, h, w = images.shape
    x = F.pad(images, (BLUR_RADIUS,) * 4, mode="reflect").reshape(1, b * c, h + 12, w + 12)
    x = F.conv2d(x, kernel[:, None, :, None], groups=b * c)
    return F.conv2d(x, kernel[:, None, None, :], groups=b * c).view(b, c, h, w)


def jpeg_roundtrip(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 through a 4:2:0 JPEG of the given quality."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(buffer))


def upsample(lr: Tensor, scale: int) -> Tensor:
    """Bicubic to the target size, as `wsisr upscale` does before stage 1 (a = -0.75)."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)


@cache
def sampling(size: int, scale: int) -> Sampling:
    """Maps between an image of `size` px a side and its low-resolution version."""
    tile = -(-size // 64) * 64
    plan = make_plan(size // scale, size // scale, scale, tile=tile, overlap=0)
    up, down = plan.sampling(0, plan.columns)
    return Sampling(torch.from_numpy(up)[:size], torch.from_numpy(down)[:, :size])


def agree(image: Tensor, lr: Tensor) -> Tensor:
    """Project (B, 3, n, n) images onto agreement with their (B, 3, n / scale, n / scale) input.

    What `wsisr upscale` does after stage 1: see `wsisr.models.consistency`.
    """
    maps = sampling(image.shape[2], image.shape[2] // lr.shape[2]).to(image.device)
    return project(image, lr.to(image.device), maps, maps)
