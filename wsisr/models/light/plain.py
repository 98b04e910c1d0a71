"""The layers of `wsisr.models.networks.PlainNet`, in plain torch."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4
"""Pixels along a side that are folded into channels."""


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection; no normalisation, which would blur."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        if not self.conv2.weight.is_meta:  # there torch would import its compiler for it
            # residual branches start small, so that depth does not add variance
            nn.init.kaiming_normal_(self.conv2.weight)
            self.conv2.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Adds a change: (B, width, h, w) -> the same shape."""
        return cast(Tensor, x + self.conv2(F.relu(self.conv1(x))))


class PlainLayers(nn.Module):
    """The network; at first it returns its input.

    It is made by `build`, for its heirs are made in different ways.
    """

    last_detail: nn.Conv2d | None

    def build(self, width: int, blocks: int, detail: bool) -> None:
        """Makes the layers.

        Args:
            width: channels of the blocks.
            blocks: how many there are.
            detail: whether to have a second last layer, see `detail_of`.
        """
        self.first = nn.Conv2d(3 * FACTOR**2, width, 3, padding=1)
        self.body = nn.Sequential(*(PlainBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, 3 * FACTOR**2, 3, padding=1)
        self.last_detail = nn.Conv2d(width, 3 * FACTOR**2, 3, padding=1) if detail else None
        for layer in (self.last, self.last_detail):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor, detail: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Restores a batch.

        Args:
            x: (B, 3, H, W) in [0, 1], H and W multiples of 4.
            detail: whether to return `detail_of`, too.

        Returns:
            (B, 3, H, W), not clipped; with `detail` a pair of them.
        """
        features = self.features(x)
        image = self.image_of(x, features)
        return (image, self.detail_of(features)) if detail else image

    def features(self, x: Tensor) -> Tensor:
        """Computes what the last layers read: (B, 3, H, W) -> (B, width, H / 4, W / 4)."""
        features = self.first(F.pixel_unshuffle(x - 0.5, FACTOR))
        return cast(Tensor, features + self.body(features))

    def image_of(self, x: Tensor, features: Tensor) -> Tensor:
        """Gives the image (B, 3, H, W) that the features of `x` stand for."""
        return x + F.pixel_shuffle(self.last(features), FACTOR)

    def detail_of(self, features: Tensor) -> Tensor:
        """Gives what to add to that image (B, 3, H, W); only for networks with `detail`."""
        assert self.last_detail is not None
        return F.pixel_shuffle(self.last_detail(features), FACTOR)


class LightPlainNet(PlainLayers):
    """A `PlainNet` to run.

    Args:
        width: see `PlainLayers.build`.
        blocks: see there.
        detail: see there.
    """

    def __init__(self, width: int = 64, blocks: int = 12, detail: bool = False) -> None:
        super().__init__()
        self.build(width, blocks, detail)
