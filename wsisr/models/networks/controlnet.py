"""Stage 2: the ControlNet, on diffusers' own.

A ControlNet (Zhang et al. 2023) sees the noisy latent beside the latent of the restored image and
steers a frozen UNet by additions at its skips and middle block (Histo-Diffusion 2024, section
3.2). The text prompt is blank, so its embedding is a constant stored with the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from diffusers import ControlNetModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class _NoConditioningEmbedding(nn.Module):
    """Stands where ControlNet embeds its condition image; here the condition is in the input."""

    def forward(self, condition: Tensor) -> Tensor:
        """Gives nothing to add: a zero of the right type."""
        return torch.zeros((), dtype=condition.dtype, device=condition.device)


class LatentControlNet(ControlNetModel):
    """diffusers' ControlNet with input cat(z_t, c_RM) and no conditioning embedding.

    `in_channels` counts both latents (8 for Stable Diffusion). All other arguments are those of
    `ControlNetModel`.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        down_block_types: tuple[str, ...] = (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        cross_attention_dim: int = 1024,
        attention_head_dim: int | tuple[int, ...] = (5, 10, 20, 20),
        use_linear_projection: bool = True,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            down_block_types=down_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=attention_head_dim,
            use_linear_projection=use_linear_projection,
            conditioning_embedding_out_channels=(16,),
        )
        self.controlnet_cond_embedding = _NoConditioningEmbedding()

    @classmethod
    def of_unet(cls, unet: UNet2DConditionModel) -> LatentControlNet:
        """Makes a trainable copy of a UNet's encoder and middle block.

        The input convolution gets the condition's channels behind the latent's, at zero; the
        convolutions into the UNet are zero too, so that at first the UNet is left as it is.

        Args:
            unet: the UNet that it will steer.
        """
        config = unet.config
        net: LatentControlNet = cls(
            in_channels=2 * config.in_channels,
            down_block_types=tuple(config.down_block_types),
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            cross_attention_dim=config.cross_attention_dim,
            attention_head_dim=config.attention_head_dim,
            use_linear_projection=config.use_linear_projection,
        )
        own = net.state_dict()
        for key, value in unet.state_dict().items():
            if key in own and own[key].shape == value.shape:
                own[key] = value.clone()
        weight = torch.zeros_like(net.conv_in.weight)
        weight[:, : config.in_channels] = unet.conv_in.weight.detach()
        own["conv_in.weight"] = weight
        net.load_state_dict(own)
        return net
