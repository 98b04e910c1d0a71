"""CLIP with a residual network (Radford et al. 2021), in the layout of OpenAI's weights.

Both towers end in unit vectors of one space. The image tower pools by attention, here without
positional embedding, so that it takes images of any size (as CLIP-IQA does).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.evaluation.networks.states import fill_frozen
from wsisr.models.files import count_blocks, require

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HEAD_WIDTH = 64
START, END = 49406, 49407
"""Tokens that begin and end every text."""
UNUSED = ("input_resolution", "context_length", "vocab_size")


class Bottleneck(nn.Module):
    """Applies 1x1, 3x3, 1x1 with an average pool for strides; a shortcut where shapes change."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.stride = stride
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            shortcut = nn.Conv2d(inputs, 4 * width, 1, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, 4 width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(F.avg_pool2d(y, self.stride)))
        if self.downsample is not None:
            x = self.downsample(F.avg_pool2d(x, self.stride))
        return F.relu(x + y)


class AttentionPool(nn.Module):
    """Pools by one attention query, the mean, over all places and the mean itself."""

    def __init__(self, width: int, outputs: int, places: int) -> None:
        super().__init__()
        # of the published weights; unused, since images of other sizes have other places
        self.positional_embedding = nn.Parameter(torch.empty(places, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width, h, w) to (n, outputs)."""
        tokens = x.flatten(2).transpose(1, 2)
        mean = tokens.mean(dim=1, keepdim=True)
        tokens = torch.cat([mean, tokens], dim=1)
        q, k, v = (
            projection(t).unflatten(-1, (-1, HEAD_WIDTH)).transpose(1, 2)
            for projection, t in ((self.q_proj, mean), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        pooled = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, self.c_proj(pooled.transpose(1, 2).flatten(1)))


class ImageTower(nn.Module):
    """A residual network with a three-layer stem and attention pooling."""

    def __init__(self, width: int, blocks: tuple[int, ...], outputs: int, places: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        inputs = width
        for level, number in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(number):
                stride = 2 if block == 0 and level > 0 else 1
                layer.append(Bottleneck(inputs, width << level, stride))
                inputs = 4 * width << level
            self.add_module(f"layer{level + 1}", layer)
        self.attnpool = AttentionPool(inputs, outputs, places)
        self.levels = len(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, 3, h, w), normalized, to (n, outputs)."""
        for number in (1, 2, 3):
            conv, norm = self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")
            x = F.relu(norm(conv(x)))
        x = F.avg_pool2d(x, 2)
        for level in range(self.levels):
            x = self.get_submodule(f"layer{level + 1}")(x)
        return cast(Tensor, self.attnpool(x))


class TextBlock(nn.Module):
    """Applies causal attention and a perceptron, each after its normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, width // HEAD_WIDTH, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Maps (n, tokens, width) to the same shape; `mask` is True where a token may not look."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        y = self.mlp.get_submodule("c_fc")(self.ln_2(x))
        return x + cast(Tensor, self.mlp.get_submodule("c_proj")(y * torch.sigmoid(1.702 * y)))


class Clip(nn.Module):
    """Holds both towers; `image_features` and `text_features` give unit vectors of one space."""

    def __init__(
        self,
        *,
        image_width: int = 64,
        image_blocks: tuple[int, ...] = (3, 4, 6, 3),
        text_width: int = 512,
        text_blocks: int = 12,
        outputs: int = 1024,
        context: int = 77,
        vocabulary: int = 49408,
        places: int = 50,
    ) -> None:
        super().__init__()
        self.visual = ImageTower(image_width, image_blocks, outputs, places)
        self.transformer = nn.Module()
        blocks = nn.ModuleList(TextBlock(text_width) for _ in range(text_blocks))
        self.transformer.add_module("resblocks", blocks)
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.randn(context, text_width) * 0.01)
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.randn(text_width, outputs) * text_width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(100.0).log())

    def image_features(self, pixels: Tensor) -> Tensor:
        """Computes the vectors of images.

        Args:
            pixels: (n, 3, h, w) RGB, 0 to 1, sides of at least 32 px.

        Returns:
            (n, outputs) unit vectors.
        """
        mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        return F.normalize(self.visual((pixels - mean) / std), dim=-1)

    def text_features(self, embeddings: Tensor) -> Tensor:
        """Computes the vectors of texts, differentiable in `embeddings`.

        Shorter than the context length is fine: attention is causal, so what would follow END
        has no influence on it.

        Args:
            embeddings: (n, tokens, width), token embeddings, the last of which is END.

        Returns:
            (n, outputs) unit vectors.
        """
        tokens = embeddings.shape[1]
        x = embeddings + self.positional_embedding[:tokens]
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=x.device).triu(1)
        for block in cast(nn.ModuleList, self.transformer.get_submodule("resblocks")):
            x = block(x, mask)
        return F.normalize(self.ln_final(x[:, -1]) @ self.text_projection, dim=-1)


def build_clip(state: Mapping[str, Tensor], origin: str) -> Clip:
    """Builds the network of a state in OpenAI's layout, its sizes taken from the tensors.

    Args:
        state: the tensors.
        origin: where they come from, for messages.

    Returns:
        The network.

    Raises:
        ModelError: the tensors do not form one.
    """
    state = {name: value for name, value in state.items() if name not in UNUSED}
    blocks = tuple(
        count_blocks(state, f"visual.layer{level}.")
        for level in range(1, 1 + count_blocks(state, "visual.layer"))
    )
    width, outputs = require(state, "text_projection", origin).shape
    model = Clip(
        image_width=require(state, "visual.bn3.weight", origin).shape[0],
        image_blocks=blocks,
        text_width=width,
        text_blocks=count_blocks(state, "transformer.resblocks."),
        outputs=outputs,
        context=require(state, "positional_embedding", origin).shape[0],
        vocabulary=require(state, "token_embedding.weight", origin).shape[0],
        places=require(state, "visual.attnpool.positional_embedding", origin).shape[0],
    )
    return cast(Clip, fill_frozen(model, state, origin))
