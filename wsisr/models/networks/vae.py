"""Autoencoders: images to latents of unit variance, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, AutoencoderTiny

Vae: TypeAlias = Union["AutoencoderKL", "AutoencoderTiny"]


def encode(vae: Vae, image: Tensor) -> Tensor:
    """Encodes images: the posterior's mode, scaled to unit variance.

    Args:
        vae: the autoencoder.
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B, C, H / 8, W / 8).
    """
    out: Any = vae.encode(image * 2 - 1)
    latents = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
    return cast(Tensor, latents * vae.config.scaling_factor)


def decode(vae: Vae, latents: Tensor, beside: Tensor | None = None) -> Tensor:
    """Decodes scaled latents.

    Args:
        vae: the autoencoder.
        latents: (B, C, h, w).
        beside: (B, 3, 8h, 8w) in [0, 1], what a `GuidedAutoencoderTiny` looks at meanwhile; others
            do not.

    Returns:
        Images (B, 3, 8h, 8w), about [0, 1] and not clipped.
    """
    latents = latents / vae.config.scaling_factor
    guided = beside is not None and hasattr(vae, "decode_beside")
    out: Any = cast(Any, vae).decode_beside(latents, beside) if guided else vae.decode(latents)
    return cast(Tensor, out.sample / 2 + 0.5)


def latent_factor(vae: Vae) -> int:
    """Gives the pixels of the image along one side of a latent."""
    key = "encoder_block_out_channels"  # of small autoencoders
    return int(2 ** (len(vae.config[key if key in vae.config else "block_out_channels"]) - 1))
