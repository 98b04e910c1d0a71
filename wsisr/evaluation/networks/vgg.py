"""Feature levels of AlexNet and VGG16 and their distances, with weights read as plain tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.models.files import require

ALEXNET = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))
"""(number in torchvision's `features`, stride, padding, whether a 3x3 max pool comes before)."""
VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Numbers of the 3x3 convolutions of each level in torchvision's `features`."""


def alexnet_levels(x: Tensor, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Computes the five rectified feature levels of AlexNet.

    Args:
        x: (n, 3, h, w), normalized.
        state: torchvision's weights.

    Returns:
        The levels, finest first.
    """
    levels = []
    for number, stride, padding, pooled in ALEXNET:
        if pooled:
            x = F.max_pool2d(x, 3, stride=2)
        x = F.relu(_conv(x, state, number, stride, padding))
        levels.append(x)
    return levels


def vgg16_levels(x: Tensor, state: Mapping[str, Tensor]) -> list[Tensor]:
    """Computes the five rectified feature levels of VGG16, with Hann pooling between them (DISTS).

    Args:
        x: (n, 3, h, w), normalized.
        state: torchvision's weights.

    Returns:
        The levels, finest first.
    """
    levels = []
    for number, convolutions in enumerate(VGG16):
        if number:
            x = _hann_pooled(x)
        for index in convolutions:
            x = F.relu(_conv(x, state, index, 1, 1))
        levels.append(x)
    return levels


ST_LPIPS_CHANNELS = (64, 192, 384, 256, 256)
"""Channels of the levels of ST-LPIPS's network; their sizes are 1/2, 1/4, then 1/8."""


def st_lpips_distance(a: Tensor, b: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Computes the mean ST-LPIPS of two batches, differentiable.

    Args:
        a: (n, 3, h, w), 0 to 1.
        b: the other batch.
        state: weights of the network and its heads, on the device of the images.

    Returns:
        The mean, ().
    """
    return weighed_distance(st_lpips_levels(a, state), st_lpips_levels(b, state), state)


def weighed_distance(
    own: list[Tensor], reference: list[Tensor], heads: Mapping[str, Tensor]
) -> Tensor:
    """Computes the LPIPS of two lists of levels.

    Args:
        own: levels of one batch.
        reference: levels of the other.
        heads: the learnt weights.

    Returns:
        The mean over the batch, ().
    """
    distance = own[0].new_zeros(())
    for number, (a, b) in enumerate(zip(own, reference, strict=True)):
        weighed = F.conv2d((_unit(a) - _unit(b)) ** 2, heads[f"lin{number}.model.1.weight"])
        distance = distance + weighed.mean()
    return distance


def _unit(x: Tensor) -> Tensor:
    # where no channel answers the root has no gradient
    squares = x.square().sum(dim=1, keepdim=True).clamp_min(1e-20)
    return x / (squares.sqrt() + 1e-10)


def st_lpips_levels(x: Tensor, state: Mapping[str, Tensor], count: int = 5) -> list[Tensor]:
    """Computes the first levels of the AlexNet with blurred subsampling.

    Args:
        x: (n, 3, h, w) RGB, 0 to 1.
        state: its weights.
        count: how many levels.

    Returns:
        The levels, finest first.
    """
    # (name, padding, whether pooled before)
    layers = (
        ("slice2.5", 2, True),
        ("slice3.9", 1, True),
        ("slice4.11", 1, False),
        ("slice5.13", 1, False),
    )

    def conv(x: Tensor, name: str, padding: int) -> Tensor:
        layer = f"net.{name}"
        return F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=padding)

    x = (x * 2 - 1 - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    levels = [F.relu(_blurred(conv(x, "slice1.0", 2)))]
    for name, padding, pooled in layers[: count - 1]:
        x = _blurred(_highest(levels[-1])) if pooled else levels[-1]
        levels.append(F.relu(conv(x, name, padding)))
    return levels


def _blurred(x: Tensor) -> Tensor:
    """Gives every second sample after a 1-2-1 blur, borders reflected by two."""
    x = F.pad(x, (2, 2, 2, 2), mode="reflect")
    # axis by axis: a third of the time of a convolution that takes one channel at a time
    for dim in (2, 3):
        before, here, after = _neighbours(x, dim, stride=2)
        x = (before + 2 * here + after) / 4
    return x


def _highest(x: Tensor) -> Tensor:
    """Gives the maximum of each 3x3 window, step 1."""
    for dim in (2, 3):
        before, here, after = _neighbours(x, dim, stride=1)
        x = torch.maximum(torch.maximum(before, here), after)
    return x


def _neighbours(x: Tensor, dim: int, stride: int) -> list[Tensor]:
    """Gives the first, second and third sample of every window of three along `dim`."""
    count = (x.shape[dim] - 3) // stride + 1
    span = stride * (count - 1) + 1
    every = (slice(None),) * dim
    return [x[(*every, slice(first, first + span, stride))] for first in range(3)]


def _conv(x: Tensor, state: Mapping[str, Tensor], number: int, stride: int, padding: int) -> Tensor:
    name = f"features.{number}"
    require(state, f"{name}.weight", "the backbone")
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.conv2d(x, weight, bias, stride=stride, padding=padding)


def _hann_pooled(x: Tensor) -> Tensor:
    """Halves the size: the root of the Hann-weighted mean of squares in 3x3 windows."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
