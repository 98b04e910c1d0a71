"""Image losses that need no pretrained network, and the patch discriminator."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def gradient_l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences of two batches (B, C, H, W)."""
    d = a - b
    rows = (d[:, :, 1:] - d[:, :, :-1]).abs().mean()
    columns = (d[:, :, :, 1:] - d[:, :, :, :-1]).abs().mean()
    return rows + columns


def texture_l1(a: Tensor, b: Tensor, window: int = 8) -> Tensor:
    """Difference of local contrast: the standard deviation of luma in windows, L1.

    A plain L1 loss answers detail it cannot place with grey; this term asks for the right amount
    of it without saying where, which is what texture means to an eye.
    """
    return (_local_deviation(a, window) - _local_deviation(b, window)).abs().mean()


def _local_deviation(x: Tensor, window: int) -> Tensor:
    luma = x.mean(1, keepdim=True)
    fine = luma - F.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    return (F.avg_pool2d(fine.square(), window, window // 2) + 1e-6).sqrt()


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of about 34 px (Isola et al. 2017), spectrally normalised."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            conv = nn.Conv2d(channels, out, 4 if stride == 2 else 3, stride, 1)
            layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = out
        layers.append(nn.Conv2d(channels, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 1, H / 4, W / 4) scores."""
        return cast(Tensor, self.layers(x))


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Hinge loss of the generator."""
    return -fake.mean()


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images in [0, 1]."""
    return float(-10 * torch.log10(F.mse_loss(a, b)))
