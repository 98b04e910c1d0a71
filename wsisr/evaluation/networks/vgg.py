"""Feature levels of AlexNet and VGG16 from torchvision's weights, read as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.evaluation.networks.states import shape

ALEXNET = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))
"""(number in torchvision's `features`, stride, padding, whether a 3x3 max pool comes before)."""
VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the 3x3 convolutions of each level in torchvision's `features`."""


def alexnet_levels(x: Tensor, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the five rectified feature levels of a normalized (n, 3, h, w) image."""
    levels = []
    for number, stride, padding, pooled in ALEXNET:
        if pooled:
            x = F.max_pool2d(x, 3, stride=2)
        x = F.relu(_conv(x, state, number, stride, padding))
        levels.append(x)
    return levels


def vgg16_levels(x: Tensor, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the five rectified feature levels, with Hann pooling between them (DISTS)."""
    levels = []
    for number, convolutions in enumerate(VGG16):
        if number:
            x = _hann_pooled(x)
        for index in convolutions:
            x = F.relu(_conv(x, state, index, 1, 1))
        levels.append(x)
    return levels


def _conv(x: Tensor, state: Mapping[str, Tensor], number: int, stride: int, padding: int) -> Tensor:
    name = f"features.{number}"
    shape(state, f"{name}.weight", "the backbone")
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def _hann_pooled(x: Tensor) -> Tensor:
    """Return half the size: root of the Hann-weighted mean of squares in 3x3 windows."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
