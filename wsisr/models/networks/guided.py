"""An autoencoder whose decoder may look at an image while it decodes.

Latents at an eighth of the resolution hold too little to place detail by: what they make lies
beside the edges of the restored image. Controllable feature wrapping (StableSR, Wang et al. 2024)
brings features of the encoder into the decoder for that. Here, for an autoencoder of half a million
weights, it is the image itself, folded to the decoder's resolutions, through one convolution each.
As what the image holds need not be made again, what is decoded may be a change to it (`adds`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DecoderTiny
from torch import Tensor, nn

FOLDS = (4, 2)
"""The image enters where the decoder works at a fourth and at half of the resolution."""


class GuidedDecoder(DecoderTiny):
    """diffusers' decoder with an entry for the image behind its first two upsamplings."""

    def __init__(self, channels: tuple[int, ...], **arguments: Any) -> None:
        super().__init__(block_out_channels=channels, **arguments)
        self.guides = nn.ModuleList(
            nn.Conv2d(3 * fold**2, width, 3, padding=1)
            for fold, width in zip(FOLDS, channels, strict=False)
        )
        for guide in self.guides:  # at first the image says nothing
            _zero(guide)

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """Decodes latents.

        Args:
            x: (B, C, h, w).
            image: (B, 3, 8h, 8w) in [0, 1], or None to decode without one.

        Returns:
            (B, 3, 8h, 8w), about [-1, 1].
        """
        entries = iter(zip(FOLDS, self.guides, strict=False))
        x = torch.tanh(x / 3) * 3
        upsampled = False
        for layer in self.layers:
            x = layer(x)
            # an upsampling, then a convolution, then the image
            entry = next(entries, None) if upsampled else None
            if entry is not None and image is not None:
                x = x + entry[1](F.pixel_unshuffle(image - 0.5, entry[0]))
            upsampled = isinstance(layer, nn.Upsample)
        return x * 2 - 1


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class GuidedAutoencoderTiny(AutoencoderTiny):
    """diffusers' `AutoencoderTiny`, of a factor of 8, with a `GuidedDecoder`.

    Without an image it is what `AutoencoderTiny` is with the same weights.

    Args:
        in_channels: see `AutoencoderTiny`.
        out_channels: see there.
        encoder_block_out_channels: see there.
        decoder_block_out_channels: see there.
        act_fn: see there.
        upsample_fn: see there.
        latent_channels: see there.
        num_encoder_blocks: see there.
        num_decoder_blocks: see there.
        scaling_factor: see there.
        adds: whether what is decoded beside an image is a change to it, so that what the
            autoencoder cannot reconstruct of the image is not lost.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64),
        act_fn: str = "relu",
        upsample_fn: str = "nearest",
        latent_channels: int = 4,
        num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3),
        num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1),
        scaling_factor: float = 1.0,
        adds: bool = False,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            encoder_block_out_channels=encoder_block_out_channels,
            decoder_block_out_channels=decoder_block_out_channels,
            act_fn=act_fn,
            upsample_fn=upsample_fn,
            latent_channels=latent_channels,
            num_encoder_blocks=num_encoder_blocks,
            num_decoder_blocks=num_decoder_blocks,
            scaling_factor=scaling_factor,
        )
        self.decoder = GuidedDecoder(
            tuple(decoder_block_out_channels),
            in_channels=latent_channels,
            out_channels=out_channels,
            num_blocks=num_decoder_blocks,
            upsampling_scaling_factor=2,
            act_fn=act_fn,
            upsample_fn=upsample_fn,
        )

    @classmethod
    def of(cls, vae: AutoencoderTiny) -> GuidedAutoencoderTiny:
        """Makes one with the weights of an unguided one, which adds nothing to an image yet.

        Args:
            vae: the unguided autoencoder.
        """
        names = cls._get_init_keys(cls) - {"self"}
        arguments = {k: v for k, v in vae.config.items() if k in names}
        guided: GuidedAutoencoderTiny = cls(**{**arguments, "adds": True})
        guided.load_state_dict({**guided.state_dict(), **vae.state_dict()})
        _zero(cast(nn.Module, guided.decoder.layers[-1]))
        guided.to(vae.device)
        return guided

    def decode_beside(self, latents: Tensor, image: Tensor) -> DecoderOutput:
        """Decodes with a look at an image.

        Args:
            latents: (B, C, h, w).
            image: (B, 3, 8h, 8w) in [0, 1].

        Returns:
            What `decode` returns: its `sample` is (B, 3, 8h, 8w), about [-1, 1].
        """
        decoded = self.decoder(latents, image)
        return DecoderOutput(sample=2 * image + decoded if self.config.adds else decoded)
