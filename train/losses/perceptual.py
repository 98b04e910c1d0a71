"""ST-LPIPS, whose network was trained on photographs, as a loss."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from wsisr.evaluation.networks import load_state, st_lpips_distance
from wsisr.evaluation.weights import find_weights

PERCEPTUAL_EVERY = 2
"""Of so many images of a batch, `perceptual_distance` looks at the first."""


def perceptual_distance(a: Tensor, b: Tensor) -> Tensor:
    """Gives the mean ST-LPIPS (Ghildyal and Liu 2022) of two batches (B, 3, H, W) in [0, 1].

    Features of a network that was trained on photographs see what statistics of images let pass:
    dots and meshes of the right spectrum and contrast. A patch adversary learns to see them, too,
    but takes thousands of iterations for it. The loss looks at every second image, for it is dear:
    of two samples of an odd number of crops at each crop once.

    Raises:
        ModelError: the weights are missing; says how to get them (`wsisr models fetch st_lpips`).
    """
    chosen = slice(None, None, PERCEPTUAL_EVERY)
    return st_lpips_distance(a[chosen], b[chosen], perceptual_state(a.device))


@lru_cache(maxsize=2)
def perceptual_state(device: torch.device) -> Mapping[str, Tensor]:
    """Reads the weights of ST-LPIPS's network onto a device.

    Raises:
        ModelError: they are missing; says how to get them.
    """
    (file,) = find_weights("st_lpips").values()
    return {name: value.to(device) for name, value in load_state(file).items()}
