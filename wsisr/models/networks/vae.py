"""TODO-DOC"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from wsisr.models.networks.guided import GuidedAutoencoderTiny

Vae: TypeAlias = AutoencoderKL | AutoencoderTiny


def encode(vae: Vae, image: Tensor) -> Tensor:
    """Latents of images: the posterior's mode, scaled to unit variance.

    Args:
        vae: the autoencoder.
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B, C, H / 8, W / 8).
    """
    out: Any = vae.encode(image * 2 - 1)
    latents = out.latents if isinstance(vae, AutoencoderTiny) else out.latent_dist.mode()
    return cast(Tensor, latents * vae.config.scaling_factor)


def decode(vae: Vae, latents: Tensor, beside: Tensor | None = None) -> Tensor:
    """Images (B, 3, 8h, 8w), about [0, 1] and not clipped, of scaled latents (B, C, h, w).

    A `GuidedAutoencoderTiny` looks at the image `beside` (B, 3, 8h, 8w) in [0, 1] meanwhile; others
    do not.
    """
    latents = latents / vae.config.scaling_factor
    guided = beside is not None and isinstance(vae, GuidedAutoencoderTiny)
    out: Any = vae.decode_beside(latents, beside) if guided else vae.decode(latents)
    return cast(Tensor, out.sample / 2 + 0.5)


def latent_factor(vae: Vae) -> int:
    """Pixels of the image along one side of a latent."""
    key = "encoder_block_out_channels" if isinstance(vae, AutoencoderTiny) else "block_out_channels"
    return int(2 ** (len(vae.config[key]) - 1))
