"""Variations of high-resolution crops: other scanners, laboratories and dyes than those at hand.

Few slides show few of them, and models should not learn these few by heart.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from train.data.kernels import Floats, filter2d, per_image, shaped_kernels

SHARPENED = 0.5
"""Part of a batch whose sharpness `vary_sharpness` changes."""
RESTAINED = 0.5
"""Part of a batch whose stain `vary_stain` changes."""
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
"""Optical densities of the dyes in red, green and blue, up to a factor (Ruifrok, Johnston 2001).

They are those of `wsisr.evaluation.measures`, which need OpenCV and numba; trainings do without.
"""


def vary_sharpness(hr: Tensor, rng: np.random.Generator, amounts: tuple[float, float]) -> Tensor:
    """Renders half of a batch as sharper or softer scanners would: unsharp masking.

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
    own = hr[chosen]
    kernels = shaped_kernels(sigma, sigma, np.zeros_like(sigma), 17)
    detail = own - filter2d(own, kernels)
    hr = hr.clone()
    hr[chosen] = (own + per_image(amount) * detail).clamp(0, 1)
    return hr


def vary_stain(hr: Tensor, rng: np.random.Generator, amount: float) -> Tensor:
    """Stains half of a batch stronger or weaker, in other shades, as other laboratories would.

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


def vary_dyes(hr: Tensor, rng: np.random.Generator, share: float) -> Tensor:
    """Shows a part of a batch in other dyes than haematoxylin and eosin.

    Colour deconvolution tells how much of both dyes lies at each pixel, and the same amounts of two
    drawn ones are put in their place: the shapes stay those of H&E, the colours come to be those of
    immunohistochemistry, trichromes or a single dye. What neither dye explains stays as it is.

    Args:
        hr: (B, 3, H, W) float in [0, 1], white is 1.
        rng: where randomness comes from; consumed in the same way whatever the content.
        share: part of the images that get other dyes, in [0, 1].

    Returns:
        The same shape, in [0, 1].
    """
    batch = len(hr)
    chosen = np.flatnonzero(rng.random(batch) < share)
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
    """Scales vectors (..., 3) to length 1."""
    lengths: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths
