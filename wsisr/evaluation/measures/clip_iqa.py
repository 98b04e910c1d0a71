"""CLIP-IQA (Wang, Chan and Loy 2023): is the image nearer to `Good photo.` or to `Bad photo.`?

The image's and both texts' unit vectors come from CLIP with a residual network; the score is the
good text's share in the softmax of the scaled cosines, 0..1. CLIP-IQA (boxblur) and (Gaussian)
replace the texts by learnt ones: context tokens before the words, learnt on the histology blur
sets with CLIP frozen.

Learnt prompts are one safetensors file (`save_prompts`, `load_prompts`):

    text_features  float32 (2, outputs)            good, bad; unit vectors: what scoring needs
    context        float32 (2 or 1, n, width)      the learnt tokens; 1 where both texts share them

    metadata: format = wsisr-clip-iqa, version = 1, kind (boxblur, gaussian or your own),
    clip_sha256 = the digest of the CLIP weights they were learnt with, and any notes of training
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wsisr.errors import ModelError, OutputError, UsageError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.networks import END, START, Clip, build_clip, load_state
from wsisr.evaluation.weights import cached_sha256, find_weights

FORMAT, VERSION = "wsisr-clip-iqa", "1"
WORDS = ((886, 1125, 269), (2103, 1125, 269))
"""`good photo.` and `bad photo.` in CLIP's vocabulary (it knows lower case only)."""
LEAST_SIDE = 32


@dataclass(frozen=True, eq=False)
class Prompts:
    """The good and the bad text.

    Attributes:
        text_features: (2, outputs).
        context: the learnt tokens; None for published texts.
        kind: boxblur, gaussian, or the user's own.
        clip_sha256: digest of the CLIP weights they were learnt with.
        notes: of the training.
    """

    text_features: Tensor
    context: Tensor | None = None
    kind: str = "photo"
    clip_sha256: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)


def clip_iqa(image: Image, kind: str | None = None) -> float:
    """Computes CLIP-IQA.

    Args:
        image: (h, w, 3) uint8 RGB, at least 32 px a side.
        kind: None for the published texts, `boxblur` or `gaussian` for the learnt ones.

    Returns:
        0 to 1, higher is better.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: the array is no RGB image, or a side is under 32 px.
    """
    check_image(image, "the image")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise UsageError("CLIP-IQA needs images of at least 32x32 px; leave smaller tiles out")
    path = find_weights("clip_rn50")["RN50.pt"]
    clip = load_clip(path)
    if kind is None:
        features = _published_features(path)
    else:
        features = load_prompts(
            find_weights(f"clip_iqa_{kind}")["prompts.safetensors"], cached_sha256(path)
        ).text_features
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255.0
    with torch.inference_mode():
        return float(score(clip.image_features(pixels), features, clip.logit_scale))


def score(image_features: Tensor, text_features: Tensor, logit_scale: Tensor) -> Tensor:
    """Scores images against both texts.

    Args:
        image_features: (n, d) unit vectors.
        text_features: (2, d) unit vectors, good and bad.
        logit_scale: CLIP's logarithm of the scale, ().

    Returns:
        (n,), 0 to 1.
    """
    logits = logit_scale.exp() * image_features @ text_features.T
    return logits.softmax(dim=-1)[:, 0]


def prompt_features(clip: Clip, context: Tensor | None = None) -> Tensor:
    """Computes the unit vectors of both texts, differentiable in `context`.

    Args:
        clip: the network.
        context: (2, n, width), or (1, n, width) where both texts share it; None for no tokens
            before the words.

    Returns:
        (2, outputs).
    """
    words = torch.tensor([[START, *text, END] for text in WORDS], device=clip.logit_scale.device)
    embedded = clip.token_embedding(words)
    if context is not None:
        embedded = torch.cat([embedded[:, :1], context.expand(2, -1, -1), embedded[:, 1:]], dim=1)
    return clip.text_features(embedded)


@lru_cache(maxsize=2)
def load_clip(path: Path) -> Clip:
    """Builds CLIP from OpenAI's RN50.pt or a state of the same layout.

    Args:
        path: the file.

    Returns:
        The network, kept for the next call.

    Raises:
        ModelError: the file is something else.
    """
    return build_clip(load_state(path), str(path))


@lru_cache(maxsize=2)
def _published_features(path: Path) -> Tensor:
    with torch.inference_mode():
        return prompt_features(load_clip(path))


def save_prompts(path: Path, prompts: Prompts) -> None:
    """Writes learnt prompts, as described above; `path` is the old file or the whole new one.

    Args:
        path: the file.
        prompts: what to write.

    Raises:
        OutputError: it cannot be written.
    """
    tensors = {"text_features": prompts.text_features.detach().float().contiguous()}
    if prompts.context is not None:
        tensors["context"] = prompts.context.detach().float().contiguous()
    metadata = {"format": FORMAT, "version": VERSION, "kind": prompts.kind}
    metadata |= {"clip_sha256": prompts.clip_sha256}
    partial = path.with_name(f"{path.name}.partial")
    try:
        save_file(tensors, partial, metadata={**prompts.notes, **metadata})
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


@lru_cache(maxsize=8)
def load_prompts(path: Path, clip_sha256: str | None = None) -> Prompts:
    """Reads learnt prompts.

    Args:
        path: the file.
        clip_sha256: digest of the CLIP weights in use; None for any.

    Returns:
        The prompts.

    Raises:
        ModelError: it is another kind of file or another version, shapes are wrong, or the prompts
            were learnt with other CLIP weights.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error})") from error
    if (notes.pop("format", None), notes.pop("version", None)) != (FORMAT, VERSION):
        raise ModelError(f"{path}: no learnt prompts of {FORMAT} version {VERSION}")
    features, context = tensors.get("text_features"), tensors.get("context")
    if features is None or features.ndim != 2 or len(features) != 2:
        raise ModelError(f"{path}: needs a tensor text_features of shape (2, outputs)")
    if context is not None and (context.ndim != 3 or len(context) not in (1, 2)):
        raise ModelError(f"{path}: context must have the shape (2 or 1, tokens, width)")
    kind, learnt_with = notes.pop("kind", ""), notes.pop("clip_sha256", "")
    if clip_sha256 is not None and learnt_with != clip_sha256:
        raise ModelError(
            f"{path}: learnt with other CLIP weights (SHA-256 {learnt_with[:12]}..., here "
            f"{clip_sha256[:12]}...); train the prompts again"
        )
    return Prompts(features, context, kind, learnt_with, notes)
