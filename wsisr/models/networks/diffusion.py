"""Stage 2: the controllable diffusion module, a UNet that a ControlNet steers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from wsisr.models.networks.controlnet import LatentControlNet


class ControllableDiffusion(nn.Module):
    """The noise predictor epsilon(z_t, t, c_RM): ControlNet and UNet with a blank prompt.

    Args:
        unet: the generative prior, frozen in the paper.
        controlnet: its steering copy.
        prompt: (tokens, cross_attention_dim) embedding of the blank prompt.
    """

    def __init__(
        self, unet: UNet2DConditionModel, controlnet: LatentControlNet, prompt: Tensor
    ) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet
        self.prompt: Tensor
        self.register_buffer("prompt", prompt, persistent=False)

    def forward(self, z: Tensor, timestep: Tensor | int, condition: Tensor) -> Tensor:
        """Predicts what the model was trained to predict (epsilon or v).

        Args:
            z: (B, C, h, w) noisy latents.
            timestep: one number, or (B,) of them, in 0..999.
            condition: (B, C, h, w) latents of the restored images.

        Returns:
            (B, C, h, w).
        """
        prompt = self.prompt.to(z.dtype)[None].expand(z.shape[0], -1, -1)
        both = torch.cat((z, condition), 1)
        skips, middle = self.controlnet(
            both, timestep, prompt, controlnet_cond=both, return_dict=False
        )
        out = self.unet(
            z,
            timestep,
            prompt,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )
        return cast(Tensor, out[0])
