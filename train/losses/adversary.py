"""Discriminators, and the hinge loss (Lim and Ye 2017) between them and a generator."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.losses.perceptual import PERCEPTUAL_EVERY, perceptual_state
from wsisr.evaluation.networks import ST_LPIPS_CHANNELS, st_lpips_levels


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of about 34 px (Isola et al. 2017), spectrally normalised.

    Args:
        width: channels of the first layer.
        channels: of the input; 6 where the image comes with its condition.
    """

    def __init__(self, width: int = 32, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
            conv = nn.Conv2d(channels, out, 4 if stride == 2 else 3, stride, 1)
            layers += [nn.utils.parametrizations.spectral_norm(conv), nn.LeakyReLU(0.2)]
            channels = out
        layers.append(nn.Conv2d(channels, 1, 3, 1, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Gives scores (B, 1, H / 4, W / 4) of images (B, channels, H, W) in [-1, 1]."""
        return cast(Tensor, self.layers(x))

    def features(self, x: Tensor) -> list[Tensor]:
        """Gives what each layer makes of the input; the last are the scores."""
        found = []
        for layer in self.layers:
            x = layer(x)
            if not isinstance(layer, nn.LeakyReLU):
                found.append(x)
        return found


class ProjectedDiscriminator(nn.Module):
    """Judges the features of a network that was trained on photographs (Sauer et al. 2021).

    A small head, spectrally normalised, on each of the three finer levels of ST-LPIPS's frozen
    network. What a `PatchDiscriminator` has to learn to see first, these features show from the
    start, so it can be heard after 150 iterations. Beside the candidate's features it sees those of
    what that was made from, so that detail must also fit; of a batch it looks at the images that
    `perceptual_distance` looks at.

    Args:
        width: channels of the heads.
    """

    LEVELS = 3
    """Levels of the network that are looked at, from the finest on."""
    GAIN = 8.0
    """Factor of the features, whose root mean squares on H&E are 0.36, 0.28 and 0.06."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.heads = nn.ModuleList(
            nn.Sequential(
                norm(nn.Conv2d(2 * channels, width, 3, 1, 1)),
                nn.LeakyReLU(0.2),
                norm(nn.Conv2d(width, width, 3, 1, 1)),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for channels in ST_LPIPS_CHANNELS[: self.LEVELS]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Gives scores (B / 2, 3, h, w), h about H / 4, of images (B, 6, H, W) in [-1, 1].

        The images are those of `with_condition`.

        Raises:
            ModelError: the network's weights are missing; says how to get them.
        """
        pairs = (x[::PERCEPTUAL_EVERY] + 1) / 2
        own, condition = (
            st_lpips_levels(images, perceptual_state(x.device), self.LEVELS)
            for images in (pairs[:, :3], pairs[:, 3:])
        )
        scores = [
            head(self.GAIN * torch.cat(both, 1))
            for head, *both in zip(self.heads, own, condition, strict=True)
        ]
        size = scores[1].shape[2:]
        return torch.cat([F.adaptive_avg_pool2d(each, size) for each in scores], 1)

    def features(self, x: Tensor) -> list[Tensor]:
        """Gives the scores alone: the frozen features are `perceptual_distance`'s to compare."""
        return [self(x)]


def feature_l1(own: list[Tensor], reference: list[Tensor]) -> Tensor:
    """Compares a discriminator's features, without scores, by L1 (Wang et al. 2018)."""
    pairs = list(zip(own[:-1], reference[:-1], strict=True))
    return torch.stack([(a - b.detach()).abs().mean() for a, b in pairs]).mean()


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Gives the hinge loss of a discriminator by its scores of real and of generated images."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def hinge_generator(fake: Tensor) -> Tensor:
    """Gives the hinge loss of a generator by the scores of its images."""
    return -fake.mean()


def with_condition(image: Tensor, condition: Tensor) -> Tensor:
    """Puts images and what they were made from together, for a conditional discriminator.

    Args:
        image: (B, 3, H, W) in [0, 1].
        condition: of the same shape and range.

    Returns:
        (B, 6, H, W) in [-1, 1].
    """
    return torch.cat((image, condition), 1) * 2 - 1
