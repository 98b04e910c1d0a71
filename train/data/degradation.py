"""Low-resolution versions of high-resolution crops, made at training time.

| kind | what it does |
|---|---|
| `area` | box mean over scale x scale px: the low-resolution file of a scanner pair |
| `scanner` | `area`, and for a random quarter of a batch what low-power scans add: optical blur, sensor noise, JPEG with any chroma subsampling |
| `codeformer` | blur, reduction, noise, JPEG, once (Zhou et al. 2022) |
| `realesrgan` | blur, resizing, noise, JPEG, twice, with sinc ringing (Wang et al. 2021) |

All work on whole batches: kernels differ by image and are applied by FFT, noise is one field;
only JPEG goes image by image. Every number is drawn before a pixel is looked at, so the state of
the generator afterwards depends on nothing but the batch's shape and the generator itself.
"""  # noqa: E501

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.kernels import (
    choose,
    filter2d,
    identity_kernels,
    jpeg,
    mixed_kernels,
    per_image,
    shaped_kernels,
    sinc_kernels,
)
from wsisr.models import Sampling, project, project_limited
from wsisr.resize import axis_weights

Degradation = Literal["area", "scanner", "codeformer", "realesrgan"]
KINDS: tuple[Degradation, ...] = get_args(Degradation)
ROUGH = 0.25
"""Part of a batch for which `scanner` does more than the area mean."""
GROUP = 4
"""Images of a batch that share the size and filter of a random resize."""
SUBSAMPLINGS = (0, 1, 2)
"""Pillow's numbers of 4:4:4, 4:2:2 and 4:2:0."""


def degrade(hr: Tensor, scale: int, rng: np.random.Generator, kind: str = "scanner") -> Tensor:
    """Degrades a batch of high-resolution crops.

    Args:
        hr: (B, 3, H, W) float in [0, 1]; H and W are multiples of `scale`.
        scale: integer factor.
        rng: where randomness comes from; consumed in the same way whatever the content.
        kind: one of `KINDS`, see the table above.

    Returns:
        (B, 3, H / scale, W / scale) float in [0, 1] on the 8-bit grid.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"degradation {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "area":
        return reduce_by_area(hr, scale)
    if kind == "scanner":
        return round_to_8_bits(_scanner(hr, scale, rng))
    one = _codeformer if kind == "codeformer" else _realesrgan
    return round_to_8_bits(torch.cat([one(each, scale, rng) for each in torch.split(hr, GROUP)]))


def reduce_by_area(hr: Tensor, scale: int) -> Tensor:
    """Gives the box means over scale x scale px, on the 8-bit grid.

    Args:
        hr: (B, C, H, W) float in [0, 1]; H and W are multiples of `scale`.
        scale: integer factor.

    Returns:
        (B, C, H / scale, W / scale) float in [0, 1].
    """
    return round_to_8_bits(F.avg_pool2d(hr, scale))


def round_to_8_bits(images: Tensor) -> Tensor:
    """Clips images to [0, 1] and rounds them to multiples of 1/255."""
    return (images.clamp(0, 1) * 255).round() / 255


def _scanner(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """Takes the area mean, and adds to some images what low-power scans add."""
    batch, _, height, width = hr.shape
    rough = np.flatnonzero(rng.random(batch) < ROUGH)
    sigma = rng.uniform(0.1, 0.35, batch)[rough] * scale
    read, shot = rng.uniform(0, 2, (2, batch))[:, rough]  # grey levels, the second at white
    quality = rng.integers(30, 96, batch)[rough]
    chroma = rng.choice(SUBSAMPLINGS, batch)[rough]
    grain = rng.standard_normal((batch, 3, height // scale, width // scale), np.float32)[rough]
    lr = F.avg_pool2d(hr, scale)
    if len(rough):
        kernels = shaped_kernels(sigma, sigma, np.zeros_like(sigma), 2 * math.ceil(scale) + 1)
        soft = F.avg_pool2d(filter2d(hr[rough], kernels), scale)
        deviation = (per_image(read) ** 2 + per_image(shot) ** 2 * soft.clamp(0, 1)).sqrt() / 255
        lr = lr.clone()
        lr[rough] = jpeg(soft + deviation * torch.from_numpy(grain), quality, chroma)
    return lr


def _codeformer(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """Degrades as CodeFormer's training does.

    Kernels of 41 px, round or elongated, with sigma 0.1-12; size / 1-12; noise 0-15; JPEG 30-100.
    """
    batch, _, height, width = hr.shape
    sigma_x, sigma_y = rng.uniform(0.1, 12, (2, batch))
    angle = rng.uniform(-np.pi, np.pi, batch)
    sigma_y = np.where(rng.random(batch) < 0.5, sigma_x, sigma_y)
    factor = rng.uniform(1, 12)
    size = _scaled_side(height, 1 / factor), _scaled_side(width, 1 / factor)
    noise = rng.uniform(0, 15, batch)
    quality = rng.integers(30, 101, batch)
    grain = rng.standard_normal((batch, 3, *size), np.float32)
    x = filter2d(hr, shaped_kernels(sigma_x, sigma_y, angle, 41))
    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    x = jpeg(x + torch.from_numpy(grain) * per_image(noise) / 255, quality)
    # where the reduced image is still larger than the result, sampling it bare would alias
    size = height // scale, width // scale
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True)
class _Order:
    """Ranges of one of Real-ESRGAN's two rounds.

    Attributes:
        sigma: range of the kernels' widths, px.
        blurred: probability of a blur.
        grow: probabilities of enlarging, reducing and keeping the size.
        resize: least and largest factor of the size.
        gauss: range of Gaussian noise, grey levels.
        poisson: range of Poisson noise, multiples of shot noise.
    """

    sigma: tuple[float, float]
    blurred: float
    grow: tuple[float, float, float]
    resize: tuple[float, float]
    gauss: tuple[float, float]
    poisson: tuple[float, float]


FIRST = _Order((0.2, 3), 1.0, (0.2, 0.7, 0.1), (0.15, 1.5), (1, 30), (0.05, 3))
SECOND = _Order((0.2, 1.5), 0.8, (0.3, 0.4, 0.3), (0.3, 1.2), (1, 25), (0.05, 2.5))


def _realesrgan(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """Degrades as Real-ESRGAN's training does, in two rounds."""
    height, width = hr.shape[2:]
    lr_size = height // scale, width // scale
    quality = rng.integers(30, 96, (2, len(hr)))
    x = _blur_resize_noise(hr, (height, width), FIRST, rng)
    x = jpeg(x, quality[0])
    x = _blur_resize_noise(x, lr_size, SECOND, rng)
    half = rng.integers(3, 11, len(hr))
    ringing = sinc_kernels(rng.uniform(np.pi / 3, np.pi, len(hr)), 21, half)
    ringing = choose(rng.random(len(hr)) < 0.8, ringing, identity_kernels(ringing))
    mode = _random_mode(rng)
    if rng.random() < 0.5:
        return jpeg(filter2d(_resize(x, lr_size, mode), ringing), quality[1])
    return filter2d(_resize(jpeg(x, quality[1]), lr_size, mode), ringing)


def _blur_resize_noise(
    x: Tensor, reference: tuple[int, int], order: _Order, rng: np.random.Generator
) -> Tensor:
    """Does one round up to its JPEG; sizes are drawn relative to `reference` (height, width)."""
    batch = len(x)
    kernels = mixed_kernels(rng, batch, order.sigma)
    kernels = choose(rng.random(batch) < order.blurred, kernels, identity_kernels(kernels))
    low, high = order.resize
    ranges = ((1.0, high), (low, 1.0), (1.0, 1.0))
    factor = rng.uniform(*ranges[rng.choice(3, p=order.grow)])
    size = _scaled_side(reference[0], factor), _scaled_side(reference[1], factor)
    mode = _random_mode(rng)
    gaussian = rng.random(batch) < 0.5
    grey = rng.random(batch) < 0.4
    gauss = rng.uniform(*order.gauss, batch)
    poisson = rng.uniform(*order.poisson, batch)
    seeds = rng.integers(2**62, size=batch)
    grain = torch.from_numpy(rng.standard_normal((batch, 3, *size), np.float32))
    x = _resize(filter2d(x, kernels), size, mode).clamp(0, 1)
    grain = choose(grey, grain[:, :1].expand_as(grain), grain) * per_image(gauss) / 255
    shot = torch.stack(
        [
            torch.zeros_like(image) if gaussian[i] else shot_noise(image, grey[i], int(seeds[i]))
            for i, image in enumerate(x)
        ]
    )
    return (x + choose(gaussian, grain, shot * per_image(poisson))).clamp(0, 1)


def shot_noise(image: Tensor, grey: bool, seed: int) -> Tensor:
    """Draws Poisson noise of one image, zero in the mean.

    The number of photons at white is the number of grey levels in use, to the next power of two.
    A generator of its own is used, for Poisson draws take as many numbers as the content makes
    them.

    Args:
        image: (3, h, w) float in [0, 1].
        grey: whether all channels get the same noise.
        seed: of the generator.

    Returns:
        (3, h, w) float.
    """
    base = image.mean(0, keepdim=True) if grey else image
    levels = int(torch.bincount((base * 255).round().long().flatten()).count_nonzero())
    photons = 2 ** math.ceil(math.log2(max(levels, 2)))
    draw = torch.poisson(base * photons, torch.Generator().manual_seed(seed))
    noise: Tensor = draw / photons - base
    return noise.expand_as(image)


def _scaled_side(side: int, factor: float) -> int:
    """Gives the side of an image that is resized, 2 px or more."""
    return max(2, round(side * factor))


def _random_mode(rng: np.random.Generator) -> str:
    """Draws the filter of a resize."""
    return ("area", "bilinear", "bicubic")[rng.integers(3)]


def _resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    corners = None if mode == "area" else False
    return F.interpolate(images, size, mode=mode, align_corners=corners)


def upsample(lr: Tensor, scale: int) -> Tensor:
    """Bicubic to the target size, as `wsisr upscale` does before stage 1 (a = -0.75)."""
    return F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)


@cache
def sampling(size: int, scale: int, device: torch.device) -> Sampling:
    """Maps between an image of `size` px a side and its low-resolution version."""
    tile = -(-size // 64) * 64
    found = axis_weights(0, tile, size, scale, size // scale)
    up, down = torch.from_numpy(found.up), torch.from_numpy(found.down)
    return Sampling(up[:size], down[:, :size]).to(device)


def agree(image: Tensor, lr: Tensor, limited: bool = False) -> Tensor:
    """Project (B, 3, n, n) images onto agreement with their (B, 3, n / scale, n / scale) input.

    What `wsisr upscale` does after stage 1, or, `limited`, after stage 2: see
    `wsisr.models.consistency`.
    """
    maps = sampling(image.shape[2], image.shape[2] // lr.shape[2], image.device)
    bring = project_limited if limited else project
    return bring(image, lr.to(image.device), maps, maps)
