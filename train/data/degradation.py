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

import io
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wsisr.models import Sampling, project, project_limited
from wsisr.resize import axis_weights

KINDS = ("area", "scanner", "codeformer", "realesrgan")
ROUGH = 0.25  # part of a batch for which `scanner` does more than the area mean
SHARPENED = 0.5  # part of a batch whose sharpness `vary_sharpness` changes
RESTAINED = 0.5  # and whose stain `vary_stain` does
GROUP = 4  # images of a batch that share the size and filter of a random resize
SUBSAMPLINGS = (0, 1, 2)  # Pillow's numbers of 4:4:4, 4:2:2, 4:2:0

HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
"""Optical densities of the dyes in red, green and blue, up to a factor (Ruifrok, Johnston 2001):
those of `wsisr.evaluation.measures.stain`, which needs OpenCV and numba, and trainings do without."""

Floats = NDArray[np.float64]


def degrade(hr: Tensor, scale: int, rng: np.random.Generator, kind: str = "scanner") -> Tensor:
    """Degrade a batch.

    Args:
        hr: (B, 3, H, W) float in [0, 1]; H and W are multiples of `scale`.
        scale: integer factor.
        rng: where randomness comes from; consumed in the same way whatever the content.
        kind: one of `KINDS`.

    Returns:
        (B, 3, H / scale, W / scale) float in [0, 1] on the 8-bit grid.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"degradation {kind!r} is not one of {', '.join(KINDS)}")
    if kind == "area":
        lr = F.avg_pool2d(hr, scale)
    elif kind == "scanner":
        lr = _scanner(hr, scale, rng)
    else:
        one = _codeformer if kind == "codeformer" else _realesrgan
        lr = torch.cat([one(part, scale, rng) for part in torch.split(hr, GROUP)])
    return (lr.clamp(0, 1) * 255).round() / 255


def vary_sharpness(hr: Tensor, rng: np.random.Generator, amounts: tuple[float, float]) -> Tensor:
    """Render half of a batch as sharper or softer scanners would: unsharp masking.

    Scanners sharpen by different amounts, and how steeply a spectrum falls below the limit of the
    low-resolution image tells how it goes on above. Few slides show few slopes; this adds others.

    Args:
        hr: (B, 3, H, W) float in [0, 1].
        rng: where randomness comes from; consumed in the same way whatever the content.
        amounts: range of the part that is added of the difference to a blur of 1 to 2.5 px;
            negative ones soften.

    Returns:
        The same shape, in [0, 1].
    """
    batch = len(hr)
    chosen = np.flatnonzero(rng.random(batch) < SHARPENED)
    amount = rng.uniform(*amounts, batch)[chosen]
    sigma = rng.uniform(1.0, 2.5, batch)[chosen]
    if not len(chosen):
        return hr
    part = hr[chosen]
    kernels = shaped_kernels(sigma, sigma, np.zeros_like(sigma), 17)
    detail = part - filter2d(part, kernels)
    hr = hr.clone()
    hr[chosen] = (part + _column(amount) * detail).clamp(0, 1)
    return hr


def vary_stain(hr: Tensor, rng: np.random.Generator, amount: float) -> Tensor:
    """Stain half of a batch stronger or weaker, in other shades, as other laboratories would.

    Optical density is what dyes add up to: each channel's is multiplied, by up to `amount` (or its
    inverse) for all three together, and by up to a third of that, in logarithms, for each alone.

    Args:
        hr: (B, 3, H, W) float in [0, 1], white is 1.
        rng: where randomness comes from; consumed in the same way whatever the content.
        amount: largest factor, 1 or more.

    Returns:
        The same shape, in [0, 1].
    """
    batch, reach = len(hr), math.log(amount)
    chosen = rng.random(batch) < RESTAINED
    powers = rng.uniform(-reach, reach, (batch, 1)) + rng.uniform(-reach, reach, (batch, 3)) / 3
    exponents = np.where(chosen[:, None], np.exp(powers), 1.0).astype(np.float32)
    return hr ** torch.from_numpy(exponents)[:, :, None, None]


def vary_dyes(hr: Tensor, rng: np.random.Generator, part: float) -> Tensor:
    """Show a part of a batch in other dyes than haematoxylin and eosin.

    Colour deconvolution tells how much of both dyes lies at each pixel, and the same amounts of two
    drawn ones are put in their place: the shapes stay those of H&E, the colours come to be those of
    immunohistochemistry, trichromes or a single dye. What neither dye explains stays as it is.

    Args:
        hr: (B, 3, H, W) float in [0, 1], white is 1.
        rng: where randomness comes from; consumed in the same way whatever the content.
        part: of the images, in [0, 1].

    Returns:
        The same shape, in [0, 1].
    """
    batch = len(hr)
    chosen = np.flatnonzero(rng.random(batch) < part)
    drawn = np.abs(rng.standard_normal((batch, 2, 3)))[chosen]
    if not len(chosen):
        return hr
    residual = np.cross(HAEMATOXYLIN, EOSIN)
    dyes = _unit(np.array([HAEMATOXYLIN, EOSIN, residual]))
    others = _unit(np.concatenate([drawn, np.repeat(residual[None, None], len(chosen), 0)], 1))
    change = torch.from_numpy((np.linalg.inv(dyes) @ others).astype(np.float32)).to(hr.device)
    density = -hr[chosen].clamp_min(1 / 255).log()
    hr = hr.clone()
    hr[chosen] = torch.einsum("bchw,bcd->bdhw", density, change).neg().exp().clamp(0, 1)
    return hr


def _unit(vectors: Floats) -> Floats:
    """Vectors (..., 3), each of length 1."""
    lengths: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def _scanner(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
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
        deviation = (_column(read) ** 2 + _column(shot) ** 2 * soft.clamp(0, 1)).sqrt() / 255
        lr = lr.clone()
        lr[rough] = jpeg(soft + deviation * torch.from_numpy(grain), quality, chroma)
    return lr


def _codeformer(hr: Tensor, scale: int, rng: np.random.Generator) -> Tensor:
    """Kernel 41 px, round or elongated with sigma 0.1-12; size / 1-12; noise 0-15; JPEG 30-100."""
    batch, _, height, width = hr.shape
    sigma_x, sigma_y = rng.uniform(0.1, 12, (2, batch))
    angle = rng.uniform(-np.pi, np.pi, batch)
    sigma_y = np.where(rng.random(batch) < 0.5, sigma_x, sigma_y)
    factor = rng.uniform(1, 12)
    size = _size(height, 1 / factor), _size(width, 1 / factor)
    noise = rng.uniform(0, 15, batch)
    quality = rng.integers(30, 101, batch)
    grain = rng.standard_normal((batch, 3, *size), np.float32)
    x = filter2d(hr, shaped_kernels(sigma_x, sigma_y, angle, 41))
    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    x = jpeg(x + torch.from_numpy(grain) * _column(noise) / 255, quality)
    # where the reduced image is still larger than the result, sampling it bare would alias
    size = height // scale, width // scale
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)


@dataclass(frozen=True)
class _Order:
    """Ranges of one of Real-ESRGAN's two rounds.

    sigma: of the kernels, px. blurred: probability of a blur. grow: probabilities of enlarging,
    reducing and keeping the size; resize: by how much. gauss: grey levels. poisson: multiples of
    shot noise.
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
    height, width = hr.shape[2:]
    lr_size = height // scale, width // scale
    quality = rng.integers(30, 96, (2, len(hr)))
    x = _blur_resize_noise(hr, (height, width), FIRST, rng)
    x = jpeg(x, quality[0])
    x = _blur_resize_noise(x, lr_size, SECOND, rng)
    half = rng.integers(3, 11, len(hr))
    ringing = sinc_kernels(rng.uniform(np.pi / 3, np.pi, len(hr)), 21, half)
    ringing = _choose(rng.random(len(hr)) < 0.8, ringing, _identity(ringing))
    mode = _mode(rng)
    if rng.random() < 0.5:
        return jpeg(filter2d(_resize(x, lr_size, mode), ringing), quality[1])
    return filter2d(_resize(jpeg(x, quality[1]), lr_size, mode), ringing)


def _blur_resize_noise(
    x: Tensor, reference: tuple[int, int], order: _Order, rng: np.random.Generator
) -> Tensor:
    """One round up to its JPEG; sizes are drawn relative to `reference` (height, width)."""
    batch = len(x)
    kernels = mixed_kernels(rng, batch, order.sigma)
    kernels = _choose(rng.random(batch) < order.blurred, kernels, _identity(kernels))
    low, high = order.resize
    ranges = ((1.0, high), (low, 1.0), (1.0, 1.0))
    factor = rng.uniform(*ranges[rng.choice(3, p=order.grow)])
    size = _size(reference[0], factor), _size(reference[1], factor)
    mode = _mode(rng)
    gaussian = rng.random(batch) < 0.5
    grey = rng.random(batch) < 0.4
    gauss = rng.uniform(*order.gauss, batch)
    poisson = rng.uniform(*order.poisson, batch)
    seeds = rng.integers(2**62, size=batch)
    grain = torch.from_numpy(rng.standard_normal((batch, 3, *size), np.float32))
    x = _resize(filter2d(x, kernels), size, mode).clamp(0, 1)
    grain = _choose(grey, grain[:, :1].expand_as(grain), grain) * _column(gauss) / 255
    shot = torch.stack(
        [
            torch.zeros_like(image) if gaussian[i] else shot_noise(image, grey[i], int(seeds[i]))
            for i, image in enumerate(x)
        ]
    )
    return (x + _choose(gaussian, grain, shot * _column(poisson))).clamp(0, 1)


def shot_noise(image: Tensor, grey: bool, seed: int) -> Tensor:
    """Poisson noise of one image (3, h, w) in [0, 1], zero in the mean.

    The number of photons at white is the number of grey levels in use, to the next power of two.
    A generator of its own, for Poisson draws take as many numbers as the content makes them.
    """
    base = image.mean(0, keepdim=True) if grey else image
    levels = int(torch.bincount((base * 255).round().long().flatten()).count_nonzero())
    photons = 2 ** math.ceil(math.log2(max(levels, 2)))
    draw = torch.poisson(base * photons, torch.Generator().manual_seed(seed))
    noise: Tensor = draw / photons - base
    return noise.expand_as(image)


def mixed_kernels(rng: np.random.Generator, count: int, sigma: tuple[float, float]) -> Tensor:
    """Real-ESRGAN's kernels (count, 21, 21): Gaussians, generalised Gaussians and plateaus, each
    round or elongated, and now and then a sinc; 7 to 21 px wide.
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
    return _choose(is_sinc, sinc_kernels(cutoff, 21, half), shaped)


def shaped_kernels(
    sigma_x: Floats,
    sigma_y: Floats,
    angle: Floats,
    size: int,
    power: Floats | float = 1.0,
    plateau: NDArray[np.bool_] | bool = False,
    half: NDArray[np.int64] | None = None,
) -> Tensor:
    """Bell-shaped kernels that sum to one.

    With q the squared distance in units of sigma: exp(-q^power / 2), a Gaussian at power 1; or
    1 / (1 + q^power) for a plateau.

    Args:
        sigma_x, sigma_y: (n,) widths in px along and across the kernel's axis; > 0.
        angle: (n,) of the axis, radians.
        size: side in px, odd.
        power, plateau: (n,) or one for all.
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
    """Circular ideal low-pass kernels (n, size, size) float32 that sum to one.

    Args:
        cutoff: (n,) angular frequency, radians a px, up to pi.
        size, half: see `shaped_kernels`.
    """
    dx, dy = _offsets(size)
    radius = np.hypot(dx, dy)
    middle = radius == 0
    radius = np.where(middle, 1.0, radius)
    wave = torch.special.bessel_j1(torch.from_numpy(cutoff[:, None, None] * radius)).numpy()
    weights = cutoff[:, None, None] * wave / (2 * np.pi * radius)
    return _normalised(np.where(middle, cutoff[:, None, None] ** 2 / (4 * np.pi), weights), half)


def filter2d(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image of (B, C, H, W) with its own kernel of (B, K, K); borders reflected."""
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
    """(B, 3, h, w) float in [0, 1] through JPEG files, each of its own quality; by default 4:2:0.

    Returns the decoded images, on the 8-bit grid.
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
    """(h, w, 3) uint8 through a JPEG; subsampling 0, 1, 2 is 4:4:4, 4:2:2, 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer))


def _size(side: int, factor: float) -> int:
    return max(2, round(side * factor))


def _mode(rng: np.random.Generator) -> str:
    return ("area", "bilinear", "bicubic")[rng.integers(3)]


def _resize(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    corners = None if mode == "area" else False
    return F.interpolate(images, size, mode=mode, align_corners=corners)


def _column(values: Floats) -> Tensor:
    """(n,) to multiply (n, 3, h, w) with."""
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)


def _choose(condition: NDArray[np.bool_], yes: Tensor, no: Tensor) -> Tensor:
    """By image."""
    return torch.where(torch.from_numpy(condition).view(-1, *[1] * (yes.ndim - 1)), yes, no)


def _identity(kernels: Tensor) -> Tensor:
    one = torch.zeros_like(kernels)
    one[:, kernels.shape[1] // 2, kernels.shape[2] // 2] = 1
    return one


def _offsets(size: int) -> tuple[Floats, Floats]:
    axis = np.arange(size, dtype=np.float64) - size // 2
    dy, dx = np.meshgrid(axis, axis, indexing="ij")
    return dx, dy


def _normalised(weights: Floats, half: NDArray[np.int64] | None) -> Tensor:
    if half is not None:
        dx, dy = _offsets(weights.shape[-1])
        reach = np.maximum(abs(dx), abs(dy))
        weights = np.where(reach <= half[:, None, None], weights, 0.0)
    weights = weights / weights.sum((1, 2), keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))


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
