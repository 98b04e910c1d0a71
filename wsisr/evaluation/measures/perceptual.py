"""Perceptual distances: LPIPS, ST-LPIPS and DISTS, on the CPU in float32.

LPIPS (Zhang et al. 2018): five levels of AlexNet's features, unit length along channels, squared
differences weighed by learnt 1x1 weights, means over places summed. ST-LPIPS (Ghildyal and Liu
2022) is the same on an AlexNet whose strides are blurred subsampling, and so tolerates small
shifts. DISTS (Ding et al. 2020) compares the means (texture) and the covariance (structure) of
the channels of a VGG16 and of the image itself, weighed by learnt weights.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsisr.evaluation.measures.pixels import Image, check_pair
from wsisr.evaluation.networks import (
    State,
    alexnet_levels,
    load_state,
    st_lpips_distance,
    vgg16_levels,
    weighed_distance,
)
from wsisr.evaluation.weights import find_weights

LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of input scaled to -1..1."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DISTS_FLOOR = 1e-6

_load = lru_cache(maxsize=8)(load_state)


def lpips(sr: Image, hr: Image) -> float:
    """Computes LPIPS 0.1 on AlexNet.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.

    Returns:
        The distance, 0 for equal images.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: an array is no RGB image, or sizes differ.
    """
    check_pair(sr, hr)
    heads, backbone = _state("lpips", "alex.pth"), _state("alexnet", "alexnet.pth")
    with torch.inference_mode():
        own, reference = (
            alexnet_levels(_normalized(_pixels(x) * 2 - 1, LPIPS_SHIFT, LPIPS_SCALE), backbone)
            for x in (sr, hr)
        )
        return float(weighed_distance(own, reference, heads))


def st_lpips(sr: Image, hr: Image) -> float:
    """Computes ST-LPIPS on AlexNet.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.

    Returns:
        The distance, 0 for equal images.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: an array is no RGB image, or sizes differ.
    """
    check_pair(sr, hr)
    state = _state("st_lpips", "alex_shift_tolerant.pth")
    with torch.inference_mode():
        return float(st_lpips_distance(_pixels(sr), _pixels(hr), state))


def dists(sr: Image, hr: Image) -> float:
    """Computes DISTS at the full size.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.

    Returns:
        The distance, 0 for equal images.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: an array is no RGB image, or sizes differ.
    """
    check_pair(sr, hr)
    learnt, backbone = _state("dists", "weights.pt"), _state("vgg16", "vgg16.pth")
    with torch.inference_mode():
        own, reference = (
            [x, *vgg16_levels(_normalized(x, IMAGENET_MEAN, IMAGENET_STD), backbone)]
            for x in (_pixels(sr), _pixels(hr))
        )
        similarities = [_similarities(a, b) for a, b in zip(own, reference, strict=True)]
        texture, structure = (torch.cat(parts) for parts in zip(*similarities, strict=True))
        alpha, beta = learnt["alpha"].flatten(), learnt["beta"].flatten()
        total = (alpha @ texture + beta @ structure) / (alpha.sum() + beta.sum())
    return float(1 - total)


def _state(name: str, file: str) -> State:
    return _load(find_weights(name)[file])


def _pixels(image: Image) -> Tensor:
    """Gives (1, 3, h, w) float32, 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255.0


def _normalized(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gives the similarity of means and of variation, one value a channel each."""
    a, b = a[0].flatten(1), b[0].flatten(1)
    mean_a, mean_b = a.mean(dim=1), b.mean(dim=1)
    covariance = (a * b).mean(dim=1) - mean_a * mean_b
    variances = a.var(dim=1, correction=0) + b.var(dim=1, correction=0)
    texture = (2 * mean_a * mean_b + DISTS_FLOOR) / (mean_a**2 + mean_b**2 + DISTS_FLOOR)
    return texture, (2 * covariance + DISTS_FLOOR) / (variances + DISTS_FLOOR)
