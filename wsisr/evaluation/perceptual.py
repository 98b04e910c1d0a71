"""Perceptual distances: LPIPS, ST-LPIPS and DISTS, on the CPU in float32.

LPIPS (Zhang et al. 2018): five levels of AlexNet's features, unit length along channels, squared
differences weighed by learnt 1x1 weights, means over places summed. ST-LPIPS (Ghildyal and Liu
2022) is the same on an AlexNet whose strides are blurred subsampling, and so tolerates small
shifts. DISTS (Ding et al. 2020) compares the means (texture) and the covariance (structure) of
the channels of a VGG16 and of the image itself, weighed by learnt weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.evaluation import weights
from wsisr.evaluation.networks.states import State, load_state
from wsisr.evaluation.networks.vgg import alexnet_levels, vgg16_levels
from wsisr.evaluation.pixels import Image, check_pair

LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of input scaled to -1..1."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DISTS_FLOOR = 1e-6

_load = lru_cache(maxsize=8)(load_state)


def lpips(sr: Image, hr: Image) -> float:
    """Return LPIPS 0.1 (AlexNet) of two (h, w, 3) uint8 RGB images; 0 for equal ones.

    Raises `ModelError` where the weights are missing or wrong, `UsageError` where sizes differ.
    """
    check_pair(sr, hr)
    heads, backbone = _state("lpips", "alex.pth"), _state("alexnet", "alexnet.pth")
    with torch.inference_mode():
        own, reference = (
            alexnet_levels(_normalized(_pixels(x) * 2 - 1, LPIPS_SHIFT, LPIPS_SCALE), backbone)
            for x in (sr, hr)
        )
        return float(_summed_distance(own, reference, heads))


def st_lpips(sr: Image, hr: Image) -> float:
    """Return ST-LPIPS (AlexNet) of two (h, w, 3) uint8 RGB images; 0 for equal ones.

    Raises `ModelError` where the weights are missing or wrong, `UsageError` where sizes differ.
    """
    check_pair(sr, hr)
    with torch.inference_mode():
        return float(st_lpips_distance(_pixels(sr), _pixels(hr), st_lpips_state()))


def st_lpips_distance(a: Tensor, b: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Return the mean ST-LPIPS of two batches (B, 3, H, W) in [0, 1], differentiable.

    `state`: `st_lpips_state()`, on the device of the images.
    """
    return _summed_distance(_blurred_levels(a, state), _blurred_levels(b, state), state)


def st_lpips_state() -> State:
    """Return the weights of ST-LPIPS, or raise `ModelError` where they are missing or wrong."""
    return _state("st_lpips", "alex_shift_tolerant.pth")


def dists(sr: Image, hr: Image) -> float:
    """Return DISTS of two (h, w, 3) uint8 RGB images at their full size; 0 for equal ones.

    Raises `ModelError` where the weights are missing or wrong, `UsageError` where sizes differ.
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
    return _load(weights.find(name)[file])


def _pixels(image: Image) -> Tensor:
    """Return (1, 3, h, w) float32, 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255.0


def _normalized(x: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (x - x.new_tensor(mean).view(3, 1, 1)) / x.new_tensor(std).view(3, 1, 1)


def _summed_distance(
    own: list[Tensor], reference: list[Tensor], heads: Mapping[str, Tensor]
) -> Tensor:
    distance = own[0].new_zeros(())
    for number, (a, b) in enumerate(zip(own, reference, strict=True)):
        weighed = F.conv2d((_unit(a) - _unit(b)) ** 2, heads[f"lin{number}.model.1.weight"])
        distance = distance + weighed.mean()
    return distance


def _unit(x: Tensor) -> Tensor:
    # where no channel answers the root has no gradient
    squares = x.square().sum(dim=1, keepdim=True).clamp_min(1e-20)
    return x / (squares.sqrt() + 1e-10)


def _similarities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the similarity of means and of variation, one value a channel each."""
    a, b = a[0].flatten(1), b[0].flatten(1)
    mean_a, mean_b = a.mean(dim=1), b.mean(dim=1)
    covariance = (a * b).mean(dim=1) - mean_a * mean_b
    variances = a.var(dim=1, correction=0) + b.var(dim=1, correction=0)
    texture = (2 * mean_a * mean_b + DISTS_FLOOR) / (mean_a**2 + mean_b**2 + DISTS_FLOOR)
    return texture, (2 * covariance + DISTS_FLOOR) / (variances + DISTS_FLOOR)


def _blurred_levels(x: Tensor, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the levels of the AlexNet with blurred subsampling, of (B, 3, H, W) in [0, 1]."""

    def conv(x: Tensor, name: str, padding: int) -> Tensor:
        layer = f"net.{name}"
        return F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=padding)

    x = (x * 2 - 1 - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    levels = [F.relu(_blurred(conv(x, "slice1.0", 2)))]
    for name, padding in (("slice2.5", 2), ("slice3.9", 1)):
        pooled = _blurred(_highest(levels[-1]))
        levels.append(F.relu(conv(pooled, name, padding)))
    for name in ("slice4.11", "slice5.13"):
        levels.append(F.relu(conv(levels[-1], name, 1)))
    return levels


def _blurred(x: Tensor) -> Tensor:
    """Return every second sample after a 1-2-1 blur, borders reflected by two."""
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    # axis by axis: a third of the time of a convolution that takes one channel at a time
    for dim in (2, 3):
        before, here, after = _neighbours(x, dim, stride=2)
        x = (before + 2 * here + after) / 4
    return x


def _highest(x: Tensor) -> Tensor:
    """Return the maximum of each 3x3 window, step 1."""
    for dim in (2, 3):
        before, here, after = _neighbours(x, dim, stride=1)
        x = torch.maximum(torch.maximum(before, here), after)
    return x


def _neighbours(x: Tensor, dim: int, stride: int) -> list[Tensor]:
    """Return the first, second and third sample of every window of three along `dim`."""
    count = (x.shape[dim] - 3) // stride + 1
    span = stride * (count - 1) + 1
    every = (slice(None),) * dim
    return [x[(*every, slice(first, first + span, stride))] for first in range(3)]
