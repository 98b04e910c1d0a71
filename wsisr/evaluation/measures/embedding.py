"""Embedding similarity: do pathology networks see the same in SR as in HR?

The cosine of the vectors that UNI (Chen et al. 2024) or PLIP (Huang et al. 2023) gives for the
two images, each reduced to the network's size as its authors do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from wsisr.errors import UsageError
from wsisr.evaluation.measures.perceptual import IMAGENET_MEAN, IMAGENET_STD
from wsisr.evaluation.measures.pixels import Image, check_image, check_pair
from wsisr.evaluation.networks import State, VisionTransformer, from_clip, from_timm, load_state
from wsisr.evaluation.networks import clip as clip_rn
from wsisr.evaluation.weights import store as weights


@dataclass(frozen=True)
class Model:
    """How a network's weights are read and what images it wants."""

    build: Callable[[State, str], VisionTransformer]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str


MODELS = {
    "uni": Model(from_timm, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
    "plip": Model(from_clip, clip_rn.MEAN, clip_rn.STD, "bicubic"),
}


def similarity(sr: Image, hr: Image, name: str) -> float:
    """Return the cosine, -1..1, of two (h, w, 3) uint8 RGB images as `uni` or `plip` sees them.

    Raises `ModelError` where the weights are missing or wrong, `UsageError` where sizes differ.
    """
    check_pair(sr, hr)
    return float(F.cosine_similarity(embed(sr, name), embed(hr, name), dim=0))


def embed(image: Image, name: str) -> torch.Tensor:
    """Return the vector of a (h, w, 3) uint8 RGB image, (outputs,) float32; raises as above."""
    check_image(image, "the image")
    if name not in MODELS:
        raise UsageError(f"no embedding {name}; known: {', '.join(MODELS)}")
    network, model = _network(name), MODELS[name]
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    if pixels.shape[-2:] != (network.side, network.side):
        size = (network.side, network.side)
        pixels = F.interpolate(pixels, size, mode=model.resampling, antialias=True)
        # their authors resize 8-bit images: what a filter overshoots is cut off there
        pixels = pixels.round().clamp(0, 255)
    mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    with torch.inference_mode():
        vector: torch.Tensor = network((pixels / 255 - mean) / std)[0]
    return vector


@lru_cache(maxsize=len(MODELS))
def _network(name: str) -> VisionTransformer:
    (path,) = weights.find(name).values()
    return MODELS[name].build(load_state(path), str(path))
