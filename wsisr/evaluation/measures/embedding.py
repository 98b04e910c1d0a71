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
from wsisr.evaluation.networks import (
    CLIP_MEAN,
    CLIP_STD,
    State,
    VisionTransformer,
    from_clip,
    from_timm,
    load_state,
)
from wsisr.evaluation.weights import find_weights


@dataclass(frozen=True)
class Model:
    """How a network's weights are read and what images it wants.

    Attributes:
        build: makes the network of a state and the name of its file.
        mean: of its input's channels.
        std: of its input's channels.
        resampling: the filter that images are reduced by.
    """

    build: Callable[[State, str], VisionTransformer]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resampling: str


MODELS = {
    "uni": Model(from_timm, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
    "plip": Model(from_clip, CLIP_MEAN, CLIP_STD, "bicubic"),
}


def similarity(sr: Image, hr: Image, name: str) -> float:
    """Compares two images as a pathology network sees them.

    Args:
        sr: (h, w, 3) uint8 RGB.
        hr: the reference, of the same size.
        name: `uni` or `plip`.

    Returns:
        The cosine, -1 to 1.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: an array is no RGB image, or sizes differ.
    """
    check_pair(sr, hr)
    return float(F.cosine_similarity(embed(sr, name), embed(hr, name), dim=0))


def embed(image: Image, name: str) -> torch.Tensor:
    """Gives the vector of an image.

    Args:
        image: (h, w, 3) uint8 RGB.
        name: `uni` or `plip`.

    Returns:
        (outputs,) float32.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: the array is no RGB image, or no network has that name.
    """
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
    (path,) = find_weights(name).values()
    return MODELS[name].build(load_state(path), str(path))
