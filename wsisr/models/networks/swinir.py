"""Stage 1: the restoration module, a SwinIR that works at one eighth of the output resolution.

The low-resolution image is resized to the target size first; the network folds 8x8 pixels into
channels, runs residual Swin Transformer blocks there, and unfolds the result by three steps of
nearest-neighbour upsampling, each with a convolution and a leaky ReLU (SwinIR: Liang et al. 2021;
the pixel-unshuffle variant: Lin et al. 2023; its role as histology prior: Histo-Diffusion 2024,
section 3.1). Parameter names are those of the published SwinIR checkpoints of that variant, so
their weights fit without a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

UNSHUFFLE = 8
"""Pixels along a side that are folded into channels."""


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cuts (B, H, W, C), multiples of `window`, into (B, windows, window * window, C)."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, -1, window * window, c)


def window_merge(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Undoes `window_partition`: (B, windows, window * window, C) -> (B, height, width, C)."""
    b, _, _, c = x.shape
    x = x.view(b, height // window, width // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, height, width, c)


def relative_position_index(window: int) -> Tensor:
    """Gives the indices into the table of relative position biases.

    Args:
        window: side of an attention window.

    Returns:
        (window^2, window^2) int64.
    """
    axis = torch.arange(window)
    rows, columns = (g.flatten() for g in torch.meshgrid(axis, axis, indexing="ij"))
    drow = rows[:, None] - rows[None, :] + window - 1
    dcolumn = columns[:, None] - columns[None, :] + window - 1
    return drow * (2 * window - 1) + dcolumn


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Makes the additive attention mask that keeps wrapped regions apart.

    -100 rather than -inf: the published weights were trained with it.

    Args:
        height: of the features.
        width: of the features.
        window: side of an attention window.
        shift: of the windows.

    Returns:
        (windows, window^2, window^2) float32.
    """
    region = torch.zeros(1, height, width, 1)
    count = 0
    bounds = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for rows in bounds:
        for columns in bounds:
            region[:, rows, columns] = count
            count += 1
    ids = window_partition(region, window)[0, :, :, 0]
    return torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows with a learnt relative position bias."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.relative_position_index: Tensor
        self.register_buffer(
            "relative_position_index", relative_position_index(window), persistent=False
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attends: x (B, windows, N, C), mask (windows, N, N) or None -> (B, windows, N, C)."""
        b, windows, n, c = x.shape
        qkv = self.qkv(x).view(b, windows, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, b * windows, self.heads, n, -1)
        index = self.relative_position_index.flatten()
        bias = self.relative_position_bias_table[index].view(n, n, self.heads).permute(2, 0, 1)
        attn_mask = bias[None]
        if mask is not None:
            attn_mask = (bias[None] + mask[:, None].to(bias.dtype)).repeat(b, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask.to(q.dtype))
        return cast(Tensor, self.proj(out.transpose(1, 2).reshape(b, windows, n, c)))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms each vector: (..., C) -> (..., C)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


class SwinLayer(nn.Module):
    """One Swin Transformer layer; every second one works on windows shifted by half."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs the layer on x (B, H, W, C); the mask is that of its shifted windows."""
        _, h, w, _ = x.shape
        y = self.norm1(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        windows = window_partition(y, self.window)
        y = window_merge(self.attn(windows, mask if self.shift else None), self.window, h, w)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class ResidualGroup(nn.Module):
    """The Swin layers of one RSTB (a module of its own only for the checkpoints' key names)."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinLayer(dim, heads, window, window // 2 if i % 2 else 0, mlp_ratio)
            for i in range(depth)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs the block: x (B, H, W, C) -> the same shape."""
        for block in self.blocks:
            x = block(x, mask)
        return x


class RSTB(nn.Module):
    """Residual Swin Transformer block: Swin layers, a 3x3 convolution, a skip connection."""

    def __init__(self, dim: int, depth: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.residual_group = ResidualGroup(dim, depth, heads, window, mlp_ratio)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Runs the block: x (B, H, W, C) -> the same shape."""
        y = self.residual_group(x, mask).permute(0, 3, 1, 2)
        return cast(Tensor, x + self.conv(y).permute(0, 2, 3, 1))


class PatchNorm(nn.Module):
    """The layer norm in front of the first block, under its published name `patch_embed.norm`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises each vector: (..., C) -> (..., C)."""
        return cast(Tensor, self.norm(x))


class SwinIR(ModelMixin, ConfigMixin):
    """Restoration module: image in, restored image of the same size out.

    The defaults are the paper's size (15.79 M parameters).

    Args:
        embed_dim: channels of the Swin blocks.
        depths: Swin layers of each RSTB.
        num_heads: attention heads of each RSTB; each divides `embed_dim`.
        window_size: side of the attention windows, in units of 8 px.
        mlp_ratio: hidden width of the MLPs over `embed_dim`.
        num_feat: channels of the reconstruction at 1/8, 1/4, 1/2 and full resolution; one number
            stands for all four. A small model needs many at 1/8, where each position describes
            8x8 pixels, and few at full resolution, where they cost most.
        global_residual: the network predicts the difference to its input instead of the image.
            The paper's size has it off; small models trained for hours rather than weeks start
            from the resized input this way.
    """

    @register_to_config
    def __init__(
        self,
        embed_dim: int = 180,
        depths: Sequence[int] = (6,) * 8,
        num_heads: Sequence[int] = (6,) * 8,
        window_size: int = 8,
        mlp_ratio: float = 2.0,
        num_feat: int | Sequence[int] = 64,
        global_residual: bool = False,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.global_residual = global_residual
        self.mean: Tensor
        mean = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.conv_first = nn.Sequential(
            nn.PixelUnshuffle(UNSHUFFLE), nn.Conv2d(3 * UNSHUFFLE**2, embed_dim, 3, padding=1)
        )
        self.patch_embed = PatchNorm(embed_dim)
        self.layers = nn.ModuleList(
            RSTB(embed_dim, depth, heads, window_size, mlp_ratio)
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = nn.Conv2d(embed_dim, embed_dim, 3, padding=1)
        feat = (num_feat,) * 4 if isinstance(num_feat, int) else tuple(num_feat)
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(embed_dim, feat[0], 3, padding=1), nn.LeakyReLU(0.01)
        )
        self.conv_up1 = nn.Conv2d(feat[0], feat[1], 3, padding=1)
        self.conv_up2 = nn.Conv2d(feat[1], feat[2], 3, padding=1)
        self.conv_up3 = nn.Conv2d(feat[2], feat[3], 3, padding=1)
        self.conv_hr = nn.Conv2d(feat[3], feat[3], 3, padding=1)
        self.conv_last = nn.Conv2d(feat[3], 3, 3, padding=1)
        self.apply(self._initialise)
        if global_residual:
            nn.init.zeros_(self.conv_last.weight)
            nn.init.zeros_(cast(Tensor, self.conv_last.bias))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def _features(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x.permute(0, 2, 3, 1))
        h, w = x.shape[1:3]
        mask = shifted_window_mask(h, w, self.window_size, self.window_size // 2).to(x.device)
        for layer in self.layers:
            x = layer(x, mask)
        return cast(Tensor, self.norm(x).permute(0, 3, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Restores a batch.

        Args:
            x: (B, 3, H, W) float in [0, 1], the low-resolution image resized to the target size;
                H and W are multiples of 8 * window_size (64).

        Returns:
            (B, 3, H, W) float, about [0, 1] and not clipped.

        Raises:
            ValueError: H or W is not such a multiple.
        """
        multiple = UNSHUFFLE * self.window_size
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"image of {x.shape[3]}x{x.shape[2]} px, not a multiple of {multiple}")
        image = x - self.mean
        shallow = self.conv_first(image)
        features = shallow + self.conv_after_body(self._features(shallow))
        y = self.conv_before_upsample(features)
        for conv in (self.conv_up1, self.conv_up2, self.conv_up3):
            y = F.leaky_relu(conv(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.2))
        if self.global_residual:
            y = y + image
        return cast(Tensor, y + self.mean)
