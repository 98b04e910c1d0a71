"""Networks of latent-diffusion as published: their keys with random weights, and their graph.

The graph is computed straight from the keys with torch's functions, so that a converted network
can be compared with the original without the original's code.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTHS = (64, 128)
CONTEXT = 32
Tensors = dict[str, Tensor]


class Maker:
    """Random weights under given names."""

    def __init__(self, prefix: str = "") -> None:
        self.tensors: Tensors = {}
        self.prefix = prefix

    def conv(self, name: str, out: int, inner: int, side: int = 3) -> None:
        scale = 1 / math.sqrt(inner * side**2)
        self.tensors[f"{self.prefix}{name}.weight"] = torch.randn(out, inner, side, side) * scale
        self.tensors[f"{self.prefix}{name}.bias"] = torch.randn(out) * 0.1

    def linear(self, name: str, out: int, inner: int, bias: bool = True) -> None:
        self.tensors[f"{self.prefix}{name}.weight"] = torch.randn(out, inner) / math.sqrt(inner)
        if bias:
            self.tensors[f"{self.prefix}{name}.bias"] = torch.randn(out) * 0.1

    def norm(self, name: str, width: int) -> None:
        self.tensors[f"{self.prefix}{name}.weight"] = 1 + torch.randn(width) * 0.1
        self.tensors[f"{self.prefix}{name}.bias"] = torch.randn(width) * 0.1

    def resnet(self, name: str, inner: int, out: int) -> None:
        self.norm(f"{name}.in_layers.0", inner)
        self.conv(f"{name}.in_layers.2", out, inner)
        self.linear(f"{name}.emb_layers.1", out, 4 * WIDTHS[0])
        self.norm(f"{name}.out_layers.0", out)
        self.conv(f"{name}.out_layers.3", out, out)
        if inner != out:
            self.conv(f"{name}.skip_connection", out, inner, 1)

    def transformer(self, name: str, width: int) -> None:
        self.norm(f"{name}.norm", width)
        self.linear(f"{name}.proj_in", width, width)
        block = f"{name}.transformer_blocks.0"
        for attention, context in (("attn1", width), ("attn2", CONTEXT)):
            self.linear(f"{block}.{attention}.to_q", width, width, bias=False)
            self.linear(f"{block}.{attention}.to_k", width, context, bias=False)
            self.linear(f"{block}.{attention}.to_v", width, context, bias=False)
            self.linear(f"{block}.{attention}.to_out.0", width, width)
        for index in (1, 2, 3):
            self.norm(f"{block}.norm{index}", width)
        self.linear(f"{block}.ff.net.0.proj", 8 * width, width)
        self.linear(f"{block}.ff.net.2", width, 4 * width)
        self.linear(f"{name}.proj_out", width, width)

    def encoder(self, channels: int) -> None:
        """Two levels of one block, attention on the first, then the middle."""
        a, b = WIDTHS
        self.linear("time_embed.0", 4 * a, a)
        self.linear("time_embed.2", 4 * a, 4 * a)
        self.conv("input_blocks.0.0", a, channels)
        self.resnet("input_blocks.1.0", a, a)
        self.transformer("input_blocks.1.1", a)
        self.conv("input_blocks.2.0.op", a, a)
        self.resnet("input_blocks.3.0", a, b)
        self.resnet("middle_block.0", b, b)
        self.transformer("middle_block.1", b)
        self.resnet("middle_block.2", b, b)


def unet(prefix: str = "") -> Tensors:
    a, b = WIDTHS
    make = Maker(prefix)
    make.encoder(4)
    make.resnet("output_blocks.0.0", b + b, b)
    make.resnet("output_blocks.1.0", b + a, b)
    make.conv("output_blocks.1.1.conv", b, b)
    for block, skip in ((2, a), (3, a)):
        make.resnet(f"output_blocks.{block}.0", (b if block == 2 else a) + skip, a)
        make.transformer(f"output_blocks.{block}.1", a)
    make.norm("out.0", a)
    make.conv("out.2", 4, a)
    return make.tensors


def controlnet(prefix: str = "") -> Tensors:
    a, b = WIDTHS
    make = Maker(prefix)
    make.encoder(8)
    for index, width in enumerate((a, a, a, b)):
        make.conv(f"zero_convs.{index}.0", width, width, 1)
    make.conv("middle_block_out.0", b, b, 1)
    return make.tensors


def vae(prefix: str = "") -> Tensors:
    a, b = WIDTHS
    make = Maker(prefix)

    def resnet(name: str, inner: int, out: int) -> None:
        make.norm(f"{name}.norm1", inner)
        make.conv(f"{name}.conv1", out, inner)
        make.norm(f"{name}.norm2", out)
        make.conv(f"{name}.conv2", out, out)
        if inner != out:
            make.conv(f"{name}.nin_shortcut", out, inner, 1)

    def middle(side: str) -> None:
        resnet(f"{side}.mid.block_1", b, b)
        make.norm(f"{side}.mid.attn_1.norm", b)
        for name in ("q", "k", "v", "proj_out"):
            make.conv(f"{side}.mid.attn_1.{name}", b, b, 1)
        resnet(f"{side}.mid.block_2", b, b)

    make.conv("encoder.conv_in", a, 3)
    resnet("encoder.down.0.block.0", a, a)
    make.conv("encoder.down.0.downsample.conv", a, a)
    resnet("encoder.down.1.block.0", a, b)
    middle("encoder")
    make.norm("encoder.norm_out", b)
    make.conv("encoder.conv_out", 8, b)
    make.conv("quant_conv", 8, 8, 1)
    make.conv("post_quant_conv", 4, 4, 1)
    make.conv("decoder.conv_in", b, 4)
    middle("decoder")
    for block in (0, 1):
        resnet(f"decoder.up.1.block.{block}", b, b)
        resnet(f"decoder.up.0.block.{block}", b if block == 0 else a, a)
    make.conv("decoder.up.1.upsample.conv", b, b)
    make.norm("decoder.norm_out", a)
    make.conv("decoder.conv_out", 3, a)
    return make.tensors


def text_encoder(prefix: str = "", width: int = CONTEXT * 2) -> Tensors:
    """OpenCLIP's text half with three blocks of which two are used."""
    make = Maker(prefix)
    make.tensors[f"{prefix}positional_embedding"] = torch.randn(7, width)
    make.tensors[f"{prefix}token_embedding.weight"] = torch.randn(50, width)
    make.tensors[f"{prefix}text_projection"] = torch.randn(width, width)
    make.tensors[f"{prefix}logit_scale"] = torch.tensor(4.6)
    for index in range(3):
        block = f"transformer.resblocks.{index}"
        make.norm(f"{block}.ln_1", width)
        weight = torch.randn(3 * width, width) / math.sqrt(width)
        make.tensors[f"{prefix}{block}.attn.in_proj_weight"] = weight
        make.tensors[f"{prefix}{block}.attn.in_proj_bias"] = torch.randn(3 * width) * 0.1
        make.linear(f"{block}.attn.out_proj", width, width)
        make.norm(f"{block}.ln_2", width)
        make.linear(f"{block}.mlp.c_fc", 4 * width, width)
        make.linear(f"{block}.mlp.c_proj", width, 4 * width)
    make.norm("ln_final", width)
    return make.tensors


class Graph:
    """The original graph on the original keys."""

    def __init__(self, tensors: Tensors) -> None:
        self.t = tensors

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        weight = self.t[f"{name}.weight"]
        pad = weight.shape[-1] // 2 if padding is None else padding
        return F.conv2d(x, weight, self.t[f"{name}.bias"], stride, pad)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.t[f"{name}.weight"], self.t.get(f"{name}.bias"))

    def group(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, 32, self.t[f"{name}.weight"], self.t[f"{name}.bias"], eps)

    def layer(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def embedding(self, t: Tensor) -> Tensor:
        half = WIDTHS[0] // 2
        angles = t[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
        x = torch.cat((angles.cos(), angles.sin()), 1)
        return self.linear("time_embed.2", F.silu(self.linear("time_embed.0", x)))

    def resnet(self, name: str, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv(f"{name}.in_layers.2", F.silu(self.group(f"{name}.in_layers.0", x, 1e-5)))
        h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        h = self.conv(f"{name}.out_layers.3", F.silu(self.group(f"{name}.out_layers.0", h, 1e-5)))
        skip = f"{name}.skip_connection"
        return h + (self.conv(skip, x) if f"{skip}.weight" in self.t else x)

    def attend(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        heads = x.shape[-1] // 64
        q = self.linear(f"{name}.to_q", x)
        k, v = self.linear(f"{name}.to_k", context), self.linear(f"{name}.to_v", context)
        outs = []
        for q_h, k_h, v_h in zip(*(y.chunk(heads, -1) for y in (q, k, v)), strict=True):
            outs.append((q_h @ k_h.transpose(1, 2) / 8).softmax(-1) @ v_h)
        return self.linear(f"{name}.to_out.0", torch.cat(outs, -1))

    def transformer(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.group(f"{name}.norm", x, 1e-6).flatten(2).transpose(1, 2)
        y = self.linear(f"{name}.proj_in", y)
        block = f"{name}.transformer_blocks.0"
        own = self.layer(f"{block}.norm1", y)
        y = y + self.attend(f"{block}.attn1", own, own)
        y = y + self.attend(f"{block}.attn2", self.layer(f"{block}.norm2", y), context)
        value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer(f"{block}.norm3", y)).chunk(
            2, -1
        )
        y = y + self.linear(f"{block}.ff.net.2", value * F.gelu(gate))
        y = self.linear(f"{name}.proj_out", y)
        return x + y.transpose(1, 2).reshape(b, c, h, w)

    def encode(self, x: Tensor, emb: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
        skips = [self.conv("input_blocks.0.0", x)]
        h = self.resnet("input_blocks.1.0", skips[-1], emb)
        skips.append(self.transformer("input_blocks.1.1", h, context))
        skips.append(self.conv("input_blocks.2.0.op", skips[-1], stride=2))
        skips.append(self.resnet("input_blocks.3.0", skips[-1], emb))
        h = self.resnet("middle_block.0", skips[-1], emb)
        h = self.transformer("middle_block.1", h, context)
        return skips, self.resnet("middle_block.2", h, emb)

    def control(self, x: Tensor, t: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
        skips, middle = self.encode(x, self.embedding(t), context)
        outs = [self.conv(f"zero_convs.{i}.0", skip) for i, skip in enumerate(skips)]
        return outs, self.conv("middle_block_out.0", middle)

    def unet(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        control: tuple[list[Tensor], Tensor] | None = None,
    ) -> Tensor:
        emb = self.embedding(t)
        skips, h = self.encode(x, emb, context)
        if control is not None:
            skips = [skip + add for skip, add in zip(skips, control[0], strict=True)]
            h = h + control[1]
        for block in range(4):
            h = self.resnet(f"output_blocks.{block}.0", torch.cat((h, skips.pop()), 1), emb)
            if block >= 2:
                h = self.transformer(f"output_blocks.{block}.1", h, context)
            if block == 1:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
                h = self.conv("output_blocks.1.1.conv", h)
        return self.conv("out.2", F.silu(self.group("out.0", h, 1e-5)))

    def vae_resnet(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f"{name}.conv1", F.silu(self.group(f"{name}.norm1", x, 1e-6)))
        h = self.conv(f"{name}.conv2", F.silu(self.group(f"{name}.norm2", h, 1e-6)))
        skip = f"{name}.nin_shortcut"
        return h + (self.conv(skip, x) if f"{skip}.weight" in self.t else x)

    def vae_middle(self, side: str, x: Tensor) -> Tensor:
        x = self.vae_resnet(f"{side}.mid.block_1", x)
        h = self.group(f"{side}.mid.attn_1.norm", x, 1e-6)
        q, k, v = (self.conv(f"{side}.mid.attn_1.{n}", h).flatten(2) for n in "qkv")
        weights = (q.transpose(1, 2) @ k / math.sqrt(q.shape[1])).softmax(-1)
        h = (v @ weights.transpose(1, 2)).view_as(x)
        x = x + self.conv(f"{side}.mid.attn_1.proj_out", h)
        return self.vae_resnet(f"{side}.mid.block_2", x)

    def vae_encode(self, x: Tensor) -> Tensor:
        """The posterior's mean."""
        h = self.vae_resnet("encoder.down.0.block.0", self.conv("encoder.conv_in", x))
        h = F.pad(h, (0, 1, 0, 1))
        h = self.conv("encoder.down.0.downsample.conv", h, stride=2, padding=0)
        h = self.vae_middle("encoder", self.vae_resnet("encoder.down.1.block.0", h))
        h = self.conv("encoder.conv_out", F.silu(self.group("encoder.norm_out", h, 1e-6)))
        return self.conv("quant_conv", h).chunk(2, 1)[0]

    def vae_decode(self, z: Tensor) -> Tensor:
        h = self.conv("decoder.conv_in", self.conv("post_quant_conv", z))
        h = self.vae_middle("decoder", h)
        for level in (1, 0):
            for block in (0, 1):
                h = self.vae_resnet(f"decoder.up.{level}.block.{block}", h)
            if level == 1:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
                h = self.conv("decoder.up.1.upsample.conv", h)
        return self.conv("decoder.conv_out", F.silu(self.group("decoder.norm_out", h, 1e-6)))
