"""The small autoencoder (TAESD, Bohan 2023), with or without a look at an image, as it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.models.light.config import Config

FOLDS = (4, 2)
"""The image enters where the decoder works at a fourth and at half of the resolution."""


@dataclass(frozen=True)
class Latents:
    """What `encode` returns.

    Attributes:
        latents: (B, C, h, w).
    """

    latents: Tensor


@dataclass(frozen=True)
class Decoded:
    """What decoding returns.

    Attributes:
        sample: (B, 3, 8h, 8w), about [-1, 1].
    """

    sample: Tensor


class Block(nn.Module):
    """Three convolutions with a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        first, second, third = convolutions
        self.conv = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms (B, width, h, w) to the same shape."""
        return F.relu(self.conv(x) + x)


class Encoder(nn.Module):
    """Images to latents, halved between the resolutions."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = config.encoder_block_out_channels
        for level, (width, count) in enumerate(zip(widths, config.num_encoder_blocks, strict=True)):
            layers.append(
                nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
                if level
                else nn.Conv2d(config.in_channels, width, 3, padding=1)
            )
            layers += [Block(width) for _ in range(count)]
        layers.append(nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Encodes (B, 3, H, W) in [-1, 1]."""
        return cast(Tensor, self.layers(x.add(1).div(2)))


class Decoder(nn.Module):
    """Latents to images, doubled between the resolutions; see `GuidedDecoder`."""

    def __init__(self, config: Config, guided: bool) -> None:
        super().__init__()
        widths = config.decoder_block_out_channels
        layers: list[nn.Module] = [
            nn.Conv2d(config.latent_channels, widths[0], 3, padding=1),
            nn.ReLU(),
        ]
        for level, (width, count) in enumerate(zip(widths, config.num_decoder_blocks, strict=True)):
            layers += [Block(width) for _ in range(count)]
            if level + 1 < len(widths):
                layers += [
                    nn.Upsample(scale_factor=2, mode="nearest"),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                ]
            else:
                layers.append(nn.Conv2d(width, config.out_channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        if guided:
            self.guides = nn.ModuleList(
                nn.Conv2d(3 * fold**2, width, 3, padding=1)
                for fold, width in zip(FOLDS, widths, strict=False)
            )

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Decodes (B, C, h, w), with a look at an image (B, 3, 8h, 8w) in [0, 1] or without."""
        guides = getattr(self, "guides", ())
        entries = iter(zip(FOLDS, guides, strict=False))
        x = torch.tanh(x / 3) * 3
        upsampled = False
        for layer in self.layers:
            x = layer(x)
            entry = next(entries, None) if upsampled else None
            if entry is not None and image is not None:
                x = x + entry[1](F.pixel_unshuffle(image - 0.5, entry[0]))
            upsampled = isinstance(layer, nn.Upsample)
        return x * 2 - 1


class LightAutoencoder(nn.Module):
    """diffusers' `AutoencoderTiny`, to run.

    Args:
        config: its config.json.
        guided: whether the decoder may look at an image.
    """

    def __init__(self, config: Config, guided: bool = False) -> None:
        super().__init__()
        self.config = config
        self.adds = bool(config.get("adds"))
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, guided)

    def encode(self, image: Tensor) -> Latents:
        """Encodes images (B, 3, 8h, 8w) in [-1, 1]."""
        return Latents(self.encoder(image))

    def decode(self, latents: Tensor) -> Decoded:
        """Decodes latents (B, C, h, w)."""
        return Decoded(self.decoder(latents))


class LightGuidedAutoencoder(LightAutoencoder):
    """`GuidedAutoencoderTiny`, to run.

    Args:
        config: its config.json.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, guided=True)

    def decode_beside(self, latents: Tensor, image: Tensor) -> Decoded:
        """Decodes latents (B, C, h, w) with a look at images (B, 3, 8h, 8w) in [0, 1]."""
        decoded = self.decoder(latents, image)
        return Decoded(2 * image + decoded if self.adds else decoded)
