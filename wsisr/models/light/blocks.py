"""Blocks of Stable Diffusion's UNet (Rombach et al. 2022), as diffusers names their weights."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TRANSFORMER_EPS = 1e-6
EPS = 1e-5


class Residual(nn.Module):
    """Two convolutions with a shift by the timestep between them."""

    def __init__(self, inputs: int, outputs: int, time: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, EPS)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, EPS)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Transforms (B, inputs, h, w) to (B, outputs, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = y + self.time_emb_proj(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return cast(Tensor, (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y)


class Attention(nn.Module):
    """Multi-head attention to the input itself, or to a context of its own width."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList((nn.Linear(width, width),))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attends from (B, n, width) to (B, m, context width)."""
        batch, count, width = x.shape
        q, k, v = (
            each.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for each in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(1, 2).reshape(batch, count, width).to(q.dtype)
        return cast(Tensor, self.to_out[0](out))


class GatedUnit(nn.Module):
    """A linear layer whose one half gates the other (Shazeer 2020, GEGLU)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each vector: (..., width) -> (..., hidden)."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return cast(Tensor, value * F.gelu(gate))


class FeedForward(nn.Module):
    """A gated layer and a linear one; the place of a dropout between them stays empty."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = (GatedUnit(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))
        self.net = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each vector: (..., width) -> the same shape."""
        return cast(Tensor, self.net[2](self.net[0](x)))


class TransformerLayer(nn.Module):
    """Attention to itself, to the prompt, and a feed-forward layer, each behind a norm."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPS)
        self.attn1 = Attention(width, heads, width)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.attn2 = Attention(width, heads, context)
        self.norm3 = nn.LayerNorm(width, EPS)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Transforms (B, n, width) beside a prompt (B, tokens, context)."""
        y = self.norm1(x)
        x = self.attn1(y, y) + x
        x = self.attn2(self.norm2(x), prompt) + x
        return cast(Tensor, self.ff(self.norm3(x)) + x)


class Transformer(nn.Module):
    """A transformer layer over the places of an image."""

    def __init__(self, width: int, heads: int, context: int, groups: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(groups, width, TRANSFORMER_EPS)
        self.proj_in, self.proj_out = (
            nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1) for _ in range(2)
        )
        self.transformer_blocks = nn.ModuleList((TransformerLayer(width, heads, context),))

    def forward(self, x: Tensor, prompt: Tensor) -> Tensor:
        """Transforms (B, width, h, w) beside a prompt (B, tokens, context)."""
        batch, width, height, columns = x.shape
        y = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = y.permute(0, 2, 3, 1).reshape(batch, height * columns, width)
        if self.linear:
            y = self.proj_in(y)
        y = self.transformer_blocks[0](y, prompt)
        if self.linear:
            y = self.proj_out(y)
        y = y.reshape(batch, height, columns, width).permute(0, 3, 1, 2).contiguous()
        return cast(Tensor, (y if self.linear else self.proj_out(y)) + x)


class Halving(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halves height and width of (B, width, h, w)."""
        return cast(Tensor, self.conv(x))


class Doubling(nn.Module):
    """Nearest-neighbour enlargement and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Doubles height and width of (B, width, h, w)."""
        return cast(Tensor, self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class Down(nn.Module):
    """The blocks of one resolution on the way down.

    Args:
        residuals: their residual blocks.
        transformers: one behind each of them, or none.
        halving: what leads to the next resolution; None at the last.
    """

    def __init__(
        self, residuals: list[Residual], transformers: list[Transformer], halving: Halving | None
    ) -> None:
        super().__init__()
        if transformers:
            self.attentions = nn.ModuleList(transformers)
        self.resnets = nn.ModuleList(residuals)
        self.downsamplers = None if halving is None else nn.ModuleList((halving,))

    def forward(self, x: Tensor, time: Tensor, prompt: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Gives the features at its end, and those that the way up looks at."""
        skips = []
        for number, residual in enumerate(self.resnets):
            x = residual(x, time)
            if hasattr(self, "attentions"):
                x = self.attentions[number](x, prompt)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x, skips


class Middle(nn.Module):
    """The blocks of the lowest resolution."""

    def __init__(self, residuals: list[Residual], transformer: Transformer) -> None:
        super().__init__()
        self.attentions = nn.ModuleList((transformer,))
        self.resnets = nn.ModuleList(residuals)

    def forward(self, x: Tensor, time: Tensor, prompt: Tensor) -> Tensor:
        """Transforms (B, width, h, w) to the same shape."""
        x = self.attentions[0](self.resnets[0](x, time), prompt)
        return cast(Tensor, self.resnets[1](x, time))


class Up(nn.Module):
    """The blocks of one resolution on the way up.

    Args:
        residuals: their residual blocks, each beside a skip.
        transformers: one behind each of them, or none.
        doubling: what leads to the next resolution; None at the last.
    """

    def __init__(
        self, residuals: list[Residual], transformers: list[Transformer], doubling: Doubling | None
    ) -> None:
        super().__init__()
        if transformers:
            self.attentions = nn.ModuleList(transformers)
        self.resnets = nn.ModuleList(residuals)
        self.upsamplers = None if doubling is None else nn.ModuleList((doubling,))

    def forward(self, x: Tensor, time: Tensor, prompt: Tensor, skips: list[Tensor]) -> Tensor:
        """Transforms features beside skips, of which it takes the last first."""
        for number, (residual, skip) in enumerate(zip(self.resnets, reversed(skips), strict=True)):
            x = residual(torch.cat((x, skip), 1), time)
            if hasattr(self, "attentions"):
                x = self.attentions[number](x, prompt)
        return cast(Tensor, x if self.upsamplers is None else self.upsamplers[0](x))
