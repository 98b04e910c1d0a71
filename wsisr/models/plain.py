"""A convolutional restoration: residual blocks at a quarter of the output resolution.

Trained by L1 it is stage 1 of the shipped model. Trained with an adversary it is the plain
baseline, what a super-resolution network without diffusion does with the same data (EDSR, Lim et
al. 2017, in the role of Real-ESRGAN's generator, Wang et al. 2021). Like `SwinIR` it takes the
low-resolution image resized to the target size, so that one set of weights serves all scales, and
it stands in a model folder as the `restoration` part.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

FACTOR = 4


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
        """(B, width, h, w) -> the same shape."""
        return cast(Tensor, x + self.conv2(F.relu(self.conv1(x))))


class PlainNet(ModelMixin, ConfigMixin):
    """The network; at first it returns its input.

    Args:
        width: channels of the blocks.
        blocks: how many.
    """

    @register_to_config
    def __init__(self, width: int = 64, blocks: int = 12) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 * FACTOR**2, width, 3, padding=1)
        self.body = nn.Sequential(*(PlainBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, 3 * FACTOR**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], H and W multiples of 4 -> the same shape, not clipped."""
        features = self.first(F.pixel_unshuffle(x - 0.5, FACTOR))
        features = features + self.body(features)
        return x + F.pixel_shuffle(self.last(features), FACTOR)
