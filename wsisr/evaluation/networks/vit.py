"""Vision transformers (Dosovitskiy et al. 2021): one network for timm's and for CLIP's layout.

timm's state dicts are taken as they are (UNI is `vit_large_patch16_224` with layer scale);
CLIP's image towers in the layout of transformers (PLIP) are renamed to it. They differ by a
normalization before the blocks, the activation, and a projection after the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.evaluation.networks.states import fill_frozen
from wsisr.models.files import count_blocks, require

HEAD_WIDTH = 64
CLIP_NAMES = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^visual_projection\.", "head."),
)
"""Patterns of transformers' names and what they become, applied in order."""


class LayerScale(nn.Module):
    """Multiplies each channel by a learnt factor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scales the last dimension."""
        return x * self.gamma


class Attention(nn.Module):
    """Lets every token attend to all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, tokens, width) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4)
        return cast(
            Tensor, self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        )


class Perceptron(nn.Module):
    """Applies two layers to each token; `quick` takes CLIP's approximation of GELU."""

    def __init__(self, width: int, hidden: int, quick: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.quick = quick

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, width) to the same shape."""
        y = self.fc1(x)
        y = y * torch.sigmoid(1.702 * y) if self.quick else F.gelu(y)
        return cast(Tensor, self.fc2(y))


class Block(nn.Module):
    """Applies attention and perceptron, each after its normalization."""

    def __init__(self, width: int, hidden: int, scaled: bool, quick: bool, epsilon: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width)
        self.ls1 = LayerScale(width) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = Perceptron(width, hidden, quick)
        self.ls2 = LayerScale(width) if scaled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, tokens, width) to the same shape."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + cast(Tensor, self.ls2(self.mlp(self.norm2(x))))


class PatchEmbedding(nn.Module):
    """Cuts the image into patches, one token each."""

    def __init__(self, width: int, patch: int, bias: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, 3, h, w) to (n, patches, width)."""
        return cast(Tensor, self.proj(x)).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """Takes normalized images of one square size and gives one vector each.

    That is the class token after the last normalization, and after `head` where there is one.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        blocks: int,
        patch: int,
        tokens: int,
        *,
        scaled: bool = False,
        clip: bool = False,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        epsilon = 1e-5 if clip else 1e-6
        self.side = patch * round((tokens - 1) ** 0.5)
        self.clip = clip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.patch_embed = PatchEmbedding(width, patch, bias=not clip)
        self.norm_pre = nn.LayerNorm(width, eps=epsilon) if clip else nn.Identity()
        self.blocks = nn.Sequential(
            *(Block(width, hidden, scaled, clip, epsilon) for _ in range(blocks))
        )
        self.norm = nn.LayerNorm(width, eps=epsilon)
        self.head = nn.Identity() if outputs is None else nn.Linear(width, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, 3, side, side) to (n, width or outputs)."""
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], dim=1)
        tokens = self.blocks(self.norm_pre(tokens + self.pos_embed))
        return cast(Tensor, self.head(self.norm(tokens[:, 0])))


def from_timm(state: Mapping[str, Tensor], origin: str) -> VisionTransformer:
    """Builds the network of a timm state dict, without its classifier.

    Args:
        state: the tensors.
        origin: where they come from, for messages.

    Returns:
        The network.

    Raises:
        ModelError: the tensors do not form one.
    """
    return _build({n: v for n, v in state.items() if not n.startswith("head.")}, origin, False)


def from_clip(state: Mapping[str, Tensor], origin: str) -> VisionTransformer:
    """Builds the image tower of a transformers CLIPModel state dict.

    Args:
        state: the tensors.
        origin: where they come from, for messages.

    Returns:
        The network.

    Raises:
        ModelError: the tensors do not form one.
    """
    renamed = {}
    for name, value in state.items():
        if not name.startswith(("vision_model.", "visual_projection.")):
            continue
        for pattern, replacement in CLIP_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for number in range(count_blocks(renamed, "blocks.")):
        for kind in ("weight", "bias"):
            parts = [f"blocks.{number}.self_attn.{p}_proj.{kind}" for p in "qkv"]
            if any(part not in renamed for part in parts):
                raise ModelError(f"{origin}: no attention weights in block {number}")
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[f"blocks.{number}.attn.qkv.{kind}"] = joined
    # older files carry the numbers of the positions as a tensor
    renamed.pop("embeddings.position_ids", None)
    for name in ("cls_token", "pos_embed"):
        require(renamed, name, origin)
        renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
    return _build(renamed, origin, True)


def _build(state: Mapping[str, Tensor], origin: str, clip: bool) -> VisionTransformer:
    width, _, patch, _ = require(state, "patch_embed.proj.weight", origin).shape
    network = VisionTransformer(
        width,
        require(state, "blocks.0.mlp.fc1.weight", origin).shape[0],
        count_blocks(state, "blocks."),
        patch,
        require(state, "pos_embed", origin).shape[1],
        scaled="blocks.0.ls1.gamma" in state,
        clip=clip,
        outputs=state["head.weight"].shape[0] if clip and "head.weight" in state else None,
    )
    return cast(VisionTransformer, fill_frozen(network, state, origin))
