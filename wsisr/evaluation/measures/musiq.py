"""MUSIQ (Ke et al. 2021): a transformer over patches of the image at three scales.

Takes the authors' checkpoints (npz, Flax layout). The image at full size and reduced to 384 and
224 px (longer side) is cut into 32 px patches, each embedded by a small residual network; a token
carries where its patch lies (hashed to a 10x10 grid) and which scale it is of. The published
network pads the small scales with masked tokens, which change nothing and are left out here.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wsisr.errors import ModelError
from wsisr.evaluation.measures.pixels import Image, check_image
from wsisr.evaluation.networks import State
from wsisr.evaluation.weights import find_weights
from wsisr.models.files import count_blocks

PATCH = 32
GRID = 10
LONGER_SIDES = (224, 384)
GROUPS = 32
PREFIX = "opt/target/"
GAUSSIAN_SIGMA, GAUSSIAN_RADIUS = 0.5, 1.5
"""TensorFlow's Gaussian resizing kernel, in pixels of the source whatever the reduction."""


def musiq(image: Image) -> float:
    """Computes MUSIQ.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        About 0 to 100 with the KonIQ weights; higher is better.

    Raises:
        ModelError: the weights are missing or wrong.
        UsageError: the array is no RGB image.
    """
    check_image(image, "the image")
    state = load_checkpoint(find_weights("musiq")["koniq_ckpt.npz"])
    with torch.inference_mode():
        return float(predict(image, state))


def predict(image: Image, state: State) -> Tensor:
    """Computes the score of an image by a checkpoint's tensors.

    Args:
        image: (h, w, 3) uint8 RGB.
        state: the tensors.

    Returns:
        The score, ().
    """
    scaled = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1
    tokens = []
    for number, side in enumerate((*LONGER_SIDES, None)):
        patches, places = _patches(scaled if side is None else _reduced(scaled, side))
        embedded = _dense(_embed(patches, state), state, "embedding")
        embedded = embedded + state["Transformer/posembed_input/pos_embedding"][0, places]
        tokens.append(embedded + state["Transformer/scaleembed_input/scale_embedding"][0, number])
    x = torch.cat([state["Transformer/cls"][0], *tokens])
    for number in range(count_blocks(state, "Transformer/encoderblock_")):
        x = _block(x, state, f"Transformer/encoderblock_{number}")
    return _dense(_layer_norm(x[0], state, "Transformer/encoder_norm"), state, "head")[0]


@lru_cache(maxsize=2)
def load_checkpoint(path: Path) -> State:
    """Reads an npz checkpoint of the authors.

    Args:
        path: the file.

    Returns:
        {name: tensor}.

    Raises:
        ModelError: the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            state = {
                name.removeprefix(PREFIX): torch.from_numpy(archive[name]).float()
                for name in archive.files
                if name.startswith(PREFIX)
            }
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is no npz checkpoint: {error}") from error
    if "head/kernel" not in state or "Transformer/cls" not in state:
        raise ModelError(f"{path} is no checkpoint of MUSIQ; fetch the weights again")
    return state


def _reduced(image: Tensor, side: int) -> Tensor:
    """Reduces a (3, h, w) image until its longer side has `side` px, by a Gaussian filter."""
    rows, columns = image.shape[1:]
    ratio = side / max(rows, columns)
    down, across = (
        _resampling(size, max(1, round(size * ratio)), image.dtype) for size in (rows, columns)
    )
    return down @ image @ across.T


@lru_cache(maxsize=16)
def _resampling(size: int, target: int, dtype: torch.dtype) -> Tensor:
    """Gives the (target, size) matrix of TensorFlow's Gaussian resizing."""
    centres = (torch.arange(target, dtype=torch.float64) + 0.5) * size / target
    distance = torch.arange(size) + 0.5 - centres[:, None]
    taps = torch.exp(-(distance**2) / (2 * GAUSSIAN_SIGMA**2))
    taps[distance.abs() >= GAUSSIAN_RADIUS] = 0
    return (taps / taps.sum(dim=1, keepdim=True)).to(dtype)


def _patches(image: Tensor) -> tuple[Tensor, Tensor]:
    """Cuts an image into patches, (n, 3, 32, 32), and numbers the cell of each in the hashed grid.

    The image is padded with zeros evenly on both sides, the odd pixel at the end.
    """
    down, across = (math.ceil(side / PATCH) for side in image.shape[1:])
    pads = [
        count * PATCH - side for count, side in zip((down, across), image.shape[1:], strict=True)
    ]
    top, left = pads[0] // 2, pads[1] // 2
    padded = F.pad(image, (left, pads[1] - left, top, pads[0] - top))
    patches = padded.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4)
    # in float32, as the published code finds them
    cells = [
        (torch.arange(number) * torch.tensor(GRID / number, dtype=torch.float32)).long()
        for number in (down, across)
    ]
    places = cells[0][:, None] * GRID + cells[1]
    return patches.flatten(0, 1), places.flatten()


def _embed(patches: Tensor, state: State) -> Tensor:
    """Computes the features of each patch, (n, places x channels), channels fastest."""
    x = _conv(patches, state, "conv_root", stride=2)
    x = F.relu(_group_norm(x, state, "gn_root", 1e-6))
    # TensorFlow's "same" padding of an even size: the odd pixel at the end
    x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 3, stride=2)
    shortcut = x
    if "block1/unit1/conv_proj/kernel" in state:
        shortcut = _conv(x, state, "block1/unit1/conv_proj")
        shortcut = _group_norm(shortcut, state, "block1/unit1/gn_proj", 1e-4)
    for number in (1, 2, 3):
        x = _conv(x, state, f"block1/unit1/conv{number}")
        x = _group_norm(x, state, f"block1/unit1/gn{number}", 1e-4)
        x = F.relu(x) if number < 3 else F.relu(x + shortcut)
    return x.permute(0, 2, 3, 1).flatten(1)


def _conv(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    """Convolves with a kernel standardized over its inputs, "same" padding, no bias."""
    kernel = state[f"{name}/kernel"]
    kernel = kernel - kernel.mean(dim=(0, 1, 2))
    kernel = kernel / (kernel.std(dim=(0, 1, 2), correction=0) + 1e-5)
    total = max(kernel.shape[0] - stride, 0)
    before = total // 2
    x = F.pad(x, (before, total - before, before, total - before))
    return F.conv2d(x, kernel.permute(3, 2, 0, 1), stride=stride)


def _group_norm(x: Tensor, state: State, name: str, epsilon: float) -> Tensor:
    scale, bias = state[f"{name}/scale"].flatten(), state[f"{name}/bias"].flatten()
    return F.group_norm(x, min(GROUPS, x.shape[1]), scale, bias, epsilon)


def _block(x: Tensor, state: State, name: str) -> Tensor:
    attention = f"{name}/MultiHeadDotProductAttention_1"
    y = _layer_norm(x, state, f"{name}/LayerNorm_0")
    q, k, v = (
        torch.einsum("td,dhw->htw", y, state[f"{attention}/{part}/kernel"])
        + state[f"{attention}/{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    seen = F.scaled_dot_product_attention(q, k, v)
    x = x + torch.einsum("htw,hwd->td", seen, state[f"{attention}/out/kernel"])
    x = x + state[f"{attention}/out/bias"]
    y = _layer_norm(x, state, f"{name}/LayerNorm_2")
    # Flax's GELU is the approximation by a hyperbolic tangent
    y = F.gelu(_dense(y, state, f"{name}/MlpBlock_3/Dense_0"), approximate="tanh")
    return x + _dense(y, state, f"{name}/MlpBlock_3/Dense_1")


def _dense(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}/kernel"] + state[f"{name}/bias"]


def _layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}/scale"], state[f"{name}/bias"], 1e-6)
