"""The blank prompt: what Stable Diffusion's text encoder makes of no text at all.

It is a constant, so it is computed once, when a checkpoint is converted, and kept with the model;
inference loads no text encoder. The encoder is the text half of OpenCLIP ViT-H; Stable Diffusion
2 takes its last block but one, then the final normalisation (Rombach et al. 2022, release 2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.errors import ModelError
from wsisr.models.files import count_blocks, require

HEAD_CHANNELS = 64

OPEN_CLIP_BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_": "attention.in.",
    "attn.out_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.in",
    "mlp.c_proj": "mlp.out",
}
TRANSFORMERS_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.out_proj": "attention.out",
    "layer_norm2": "norm2",
    "mlp.fc1": "mlp.in",
    "mlp.fc2": "mlp.out",
}


@dataclass(frozen=True)
class BlankPrompt:
    """The blank prompt and where it comes from.

    Attributes:
        embedding: (tokens, width) float32.
        used: keys that it was made of.
        unused: keys that it was not made of.
    """

    embedding: Tensor
    used: tuple[str, ...]
    unused: tuple[str, ...]


def from_open_clip(tensors: Mapping[str, Tensor]) -> BlankPrompt:
    """Computes it by a text encoder in OpenCLIP's layout.

    The last block is left out, as Stable Diffusion 2 does.

    Args:
        tensors: of the encoder, unprefixed (`transformer.resblocks.…`).

    Raises:
        ModelError: weights are missing, or it is another encoder.
    """
    last = count_blocks(tensors, "transformer.resblocks.") - 1
    used = ["token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias"]
    blocks = []
    for index in range(last):
        prefix = f"transformer.resblocks.{index}."
        keys = [key for key in tensors if key.startswith(prefix)]
        blocks.append(_block({key.removeprefix(prefix): tensors[key] for key in keys}))
        used += keys
    embedding = _run(
        require(tensors, "token_embedding.weight"),
        require(tensors, "positional_embedding"),
        blocks,
        (require(tensors, "ln_final.weight"), require(tensors, "ln_final.bias")),
    )
    unused = tuple(key for key in tensors if key not in set(used))
    return BlankPrompt(embedding, tuple(used), unused)


def from_transformers(tensors: Mapping[str, Tensor]) -> BlankPrompt:
    """Computes it by a text encoder as transformers' `CLIPTextModel` saves it.

    Stable Diffusion 2's folders have the last block left out already, so all blocks are run.

    Args:
        tensors: of a `text_encoder` folder.

    Raises:
        ModelError: weights are missing, or it is another encoder.
    """
    own = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    blocks = []
    for index in range(count_blocks(own, "encoder.layers.")):
        prefix = f"encoder.layers.{index}."
        block = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
        for kind in ("weight", "bias"):
            three = [require(block, f"self_attn.{name}_proj.{kind}") for name in "qkv"]
            block[f"attention.in.{kind}"] = torch.cat(three)
        blocks.append(_block(block))
    norm = (require(own, "final_layer_norm.weight"), require(own, "final_layer_norm.bias"))
    embedding = _run(
        require(own, "embeddings.token_embedding.weight"),
        require(own, "embeddings.position_embedding.weight"),
        blocks,
        norm,
    )
    return BlankPrompt(embedding, tuple(tensors), ())


def blank_tokens(vocabulary: int, length: int) -> Tensor:
    """Gives start and end, the last two of a vocabulary, padded with 0 and not with the end."""
    tokens = torch.zeros(length, dtype=torch.long)
    tokens[0], tokens[1] = vocabulary - 2, vocabulary - 1
    return tokens


def _block(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives a block's tensors under this module's names."""
    block = {}
    for key, value in tensors.items():
        for old, new in {**OPEN_CLIP_BLOCK, **TRANSFORMERS_BLOCK}.items():
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        block[key] = value.float()
    return block


@torch.no_grad()  # and not inference mode: trainings use the result
def _run(
    tokens: Tensor, positions: Tensor, blocks: list[dict[str, Tensor]], norm: tuple[Tensor, Tensor]
) -> Tensor:
    length, width = positions.shape
    if width % HEAD_CHANNELS or not blocks:
        raise ModelError(f"a text encoder of width {width} with {len(blocks)} blocks is not CLIP's")
    x = tokens[blank_tokens(len(tokens), length)].float() + positions.float()
    for block in blocks:
        x = x + _attention(block, _norm(x, block, "norm1"))
        hidden = F.gelu(_linear(_norm(x, block, "norm2"), block, "mlp.in"))
        x = x + _linear(hidden, block, "mlp.out")
    return F.layer_norm(x, (width,), norm[0].float(), norm[1].float())


def _attention(block: Mapping[str, Tensor], x: Tensor) -> Tensor:
    length, width = x.shape
    qkv = _linear(x, block, "attention.in").view(length, 3, width // HEAD_CHANNELS, HEAD_CHANNELS)
    q, k, v = qkv.permute(1, 2, 0, 3)[:, None]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return _linear(out[0].transpose(0, 1).reshape(length, width), block, "attention.out")


def _norm(x: Tensor, block: Mapping[str, Tensor], name: str) -> Tensor:
    weight, bias = require(block, f"{name}.weight"), require(block, f"{name}.bias")
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def _linear(x: Tensor, block: Mapping[str, Tensor], name: str) -> Tensor:
    return F.linear(x, require(block, f"{name}.weight"), require(block, f"{name}.bias"))
