"""ST-LPIPS: perceptual distance that tolerates small shifts (Ghildyal and Liu 2022).

An AlexNet whose strides are blurred subsampling, five levels of features, unit length along
channels, squared differences weighed by learnt 1x1 weights, means over places summed.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from wsisr.errors import ModelError
from wsisr.evaluation import weights
from wsisr.evaluation.pixels import Image, check_pair

State = dict[str, torch.Tensor]


def st_lpips(sr: Image, hr: Image) -> float:
    """Return ST-LPIPS (AlexNet) of two (h, w, 3) uint8 RGB images; 0 for equal ones.

    Runs on the CPU in float32. Raises `ModelError` where the weights are missing or wrong,
    `UsageError` where sizes differ.
    """
    check_pair(sr, hr)
    state = _load(weights.find("st_lpips")["alex_shift_tolerant.pth"])
    with torch.inference_mode():
        levels = zip(_features(sr, state), _features(hr, state), strict=True)
        distance = torch.zeros(())
        for number, (own, reference) in enumerate(levels):
            difference = (_unit(own) - _unit(reference)) ** 2
            weighed = F.conv2d(difference, state[f"lin{number}.model.1.weight"])
            distance = distance + weighed.mean()
    return float(distance)


def _features(image: Image, state: State) -> list[torch.Tensor]:
    def conv(x: torch.Tensor, name: str, padding: int) -> torch.Tensor:
        layer = f"net.{name}"
        return F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], padding=padding)

    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    x = (pixels / 127.5 - 1 - state["scaling_layer.shift"]) / state["scaling_layer.scale"]
    levels = [F.relu(_blurred(conv(x, "slice1.0", 2)))]
    for name, padding in (("slice2.5", 2), ("slice3.9", 1)):
        pooled = _blurred(F.max_pool2d(levels[-1], 3, stride=1))
        levels.append(F.relu(conv(pooled, name, padding)))
    for name in ("slice4.11", "slice5.13"):
        levels.append(F.relu(conv(levels[-1], name, 1)))
    return levels


def _blurred(x: torch.Tensor) -> torch.Tensor:
    """Return every second sample after a 1-2-1 blur, borders reflected by two."""
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=x.shape[1])


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


@lru_cache(maxsize=2)
def _load(path: Path) -> State:
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} cannot be read as plain weights: {error}") from error
    return state
