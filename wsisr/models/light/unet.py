"""The UNet and the ControlNet of stage 2, as they run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.models.light.blocks import (
    EPS,
    Doubling,
    Down,
    Halving,
    Middle,
    Residual,
    Transformer,
    Up,
)
from wsisr.models.light.config import Config

LONGEST_PERIOD = 10_000


class TimeEmbedding(nn.Module):
    """Two linear layers over the sines and cosines of the timestep (Ho et al. 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, timestep: Tensor | int, x: Tensor) -> Tensor:
        """Embeds one timestep, or (B,) of them, for (B, C, h, w): (B, 4 width)."""
        steps = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(x.shape[0])
        half = self.width // 2
        exponent = -math.log(LONGEST_PERIOD) * torch.arange(
            0, half, dtype=torch.float32, device=x.device
        )
        angles = steps[:, None].float() * torch.exp(exponent / half)[None]
        waves = torch.cat((torch.cos(angles), torch.sin(angles)), -1).to(x.dtype)
        return cast(Tensor, self.linear_2(F.silu(self.linear_1(waves))))


class _Encoder(nn.Module):
    """What UNet and ControlNet have in common: the way down and the middle."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self._heads: Sequence[int] = config.heads
        self._time = 4 * widths[0]
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0])
        self.down_blocks = nn.ModuleList(
            self._down(level, kind) for level, kind in enumerate(config.down_block_types)
        )
        self.mid_block = Middle(
            [self._residual(widths[-1], widths[-1]) for _ in range(2)],
            self._transformer(widths[-1], len(widths) - 1),
        )

    def encode(
        self, x: Tensor, timestep: Tensor | int, prompt: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Goes down: the features at the lowest resolution, the skips, and the time's embedding."""
        time = self.time_embedding(timestep, x)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, time, prompt)
            skips += more
        return x, skips, time

    def _residual(self, inputs: int, outputs: int) -> Residual:
        return Residual(inputs, outputs, self._time, self.config.norm_num_groups)

    def _transformer(self, width: int, level: int) -> Transformer:
        return Transformer(
            width,
            self._heads[level],
            self.config.cross_attention_dim,
            self.config.norm_num_groups,
            self.config.use_linear_projection,
        )

    def _down(self, level: int, kind: str) -> Down:
        widths, layers = self.config.block_out_channels, self.config.layers_per_block
        width, above = widths[level], widths[max(level - 1, 0)]
        return Down(
            [self._residual(width if number else above, width) for number in range(layers)],
            [self._transformer(width, level) for _ in range(layers if "Attn" in kind else 0)],
            Halving(width) if level + 1 < len(widths) else None,
        )


class LightUNet(_Encoder):
    """diffusers' `UNet2DConditionModel` of Stable Diffusion, to run.

    Args:
        config: its config.json.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.up_blocks = nn.ModuleList(
            self._up(len(widths) - 1 - number, kind)
            for number, kind in enumerate(config.up_block_types)
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        z: Tensor,
        timestep: Tensor | int,
        prompt: Tensor,
        *,
        down_block_additional_residuals: Sequence[Tensor],
        mid_block_additional_residual: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Predicts noise or velocity, steered by a ControlNet.

        Args:
            z: (B, C, h, w) noisy latents.
            timestep: one, or (B,) of them.
            prompt: (B, tokens, width).
            down_block_additional_residuals: what the ControlNet adds to the skips.
            mid_block_additional_residual: what it adds in the middle.
            return_dict: False; as diffusers has it.

        Returns:
            The prediction (B, C, h, w), alone in a tuple.
        """
        x, skips, time = self.encode(z, timestep, prompt)
        skips = [a + b for a, b in zip(skips, down_block_additional_residuals, strict=True)]
        x = self.mid_block(x, time, prompt) + mid_block_additional_residual
        for block in self.up_blocks:
            count = len(cast(Up, block).resnets)
            x = block(x, time, prompt, skips[-count:])
            skips = skips[:-count]
        return (cast(Tensor, self.conv_out(F.silu(self.conv_norm_out(x)))),)

    def _up(self, level: int, kind: str) -> Up:
        widths, layers = self.config.block_out_channels, self.config.layers_per_block + 1
        width, below, above = (widths[min(max(level + d, 0), len(widths) - 1)] for d in (0, 1, -1))
        inputs = [below, *[width] * (layers - 1)]
        skips = [*[width] * (layers - 1), above]
        return Up(
            [self._residual(a + b, width) for a, b in zip(inputs, skips, strict=True)],
            [self._transformer(width, level) for _ in range(layers if "Attn" in kind else 0)],
            Doubling(width) if level else None,
        )


class LightControlNet(_Encoder):
    """`LatentControlNet`, to run.

    Args:
        config: its config.json.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        widths, layers = config.block_out_channels, config.layers_per_block
        skips = [widths[0]]
        for level, width in enumerate(widths):
            skips += [width] * (layers + (level + 1 < len(widths)))
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(w, w, 1) for w in skips)
        self.controlnet_mid_block = nn.Conv2d(widths[-1], widths[-1], 1)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor | int,
        prompt: Tensor,
        *,
        controlnet_cond: Tensor,
        return_dict: bool = False,
    ) -> tuple[list[Tensor], Tensor]:
        """Says what to add to the skips and to the middle of the UNet.

        Args:
            x: (B, 2 C, h, w), noisy latents and condition.
            timestep: one, or (B,) of them.
            prompt: (B, tokens, width).
            controlnet_cond: not used: the condition is in `x`.
            return_dict: False; as diffusers has it.
        """
        x, skips, time = self.encode(x, timestep, prompt)
        x = self.mid_block(x, time, prompt)
        blocks = zip(self.controlnet_down_blocks, skips, strict=True)
        return [block(skip) for block, skip in blocks], self.controlnet_mid_block(x)
