"""A convolutional restoration: residual blocks at a quarter of the output resolution.

Trained by L1 it is stage 1 of the shipped model. Trained with an adversary it is the plain
baseline, what a super-resolution network without diffusion does with the same data (EDSR, Lim et
al. 2017, in the role of Real-ESRGAN's generator, Wang et al. 2021). Like `SwinIR` it takes the
low-resolution image resized to the target size, so that one set of weights serves all scales, and
it stands in a model folder as the `restoration` part.

The features of the network that was trained with an adversary hold what L1 asks for, too: one
convolution reads either image out of them. With `detail` a network has both, its image by L1 and
the detail that only an adversary asks for, where stage 2 starts.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

FACTOR = 4
"""Pixels along a side that are folded into channels."""


class PlainBlock(nn.Module):
    """Two 3x3 convolutions with a skip connection; no normalisation, which would blur."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        # residual branches start small, so that depth does not add variance
        nn.init.kaiming_normal_(self.conv2.weight)
        self.conv2.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Adds a change: (B, width, h, w) -> the same shape."""
        return cast(Tensor, x + self.conv2(F.relu(self.conv1(x))))


class PlainNet(ModelMixin, ConfigMixin):
    """The network; at first it returns its input.

    Args:
        width: channels of the blocks.
        blocks: how many there are.
        detail: whether to have a second last layer, see `detail_of`.
    """

    @register_to_config
    def __init__(self, width: int = 64, blocks: int = 12, detail: bool = False) -> None:
        super().__init__()
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
