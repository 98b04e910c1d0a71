"""TODO-DOC"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from wsisr.evaluation.networks import load_state, st_lpips_distance
from wsisr.evaluation.weights import find_weights

PERCEPTUAL_EVERY = 2
"""Images from one that `perceptual_distance` looks at to the next."""


def perceptual_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean ST-LPIPS (Ghildyal and Liu 2022) of two batches (B, 3, H, W) in [0, 1].

    Features of a network that was trained on photographs see what the statistics above let pass:
    dots and meshes of the right spectrum and contrast. A patch adversary learns to see them, too,
    but takes thousands of iterations for it. Looks at every second image, for it is dear: of two
    samples of an odd number of crops at each crop once.

    Raises:
        ModelError: the weights are missing; says how to get them (`wsisr models fetch st_lpips`).
    """
    chosen = slice(None, None, PERCEPTUAL_EVERY)
    return st_lpips_distance(a[chosen], b[chosen], _perceptual_state(a.device))


@lru_cache(maxsize=2)
def _perceptual_state(device: torch.device) -> Mapping[str, Tensor]:
    (file,) = find_weights("st_lpips").values()
    return {name: value.to(device) for name, value in load_state(file).items()}
