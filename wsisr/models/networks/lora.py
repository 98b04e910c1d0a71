"""Networks with weights of their own for each scale: a low-rank change of each convolution.

One set of weights serves all scales, but what suits one need not suit another: where the input
holds much, detail may be bold; where it holds little, it must be careful. Low-rank adaptation
(LoRA, Hu et al. 2021) for each scale lets them differ for few numbers more. A scale stays the same
for a whole slide, so its change is added to the weights when a model is loaded: what runs is the
network without it, and costs what that costs.

In a part's safetensors file the factors lie beside the weights, the scales in the order of
model.json:

    NAME.lora_down  (scales, rank, in kh kw)
    NAME.lora_up    (scales, channels, rank)
    NAME.lora_bias  (scales, channels)          where the convolution has a bias

Zeros of lora_up and lora_bias change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from wsisr.errors import ModelError

LORA_DOWN, LORA_UP, LORA_BIAS = LORA_SUFFIXES = (".lora_down", ".lora_up", ".lora_bias")
"""Endings of the names of factors in a part's file, behind the convolution's name."""


def changed_weights(
    weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, shift: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Computes a convolution's weights for a scale.

    Args:
        weight: (channels, in, kh, kw).
        bias: (channels,) or None.
        down: (rank, in kh kw).
        up: (channels, rank).
        shift: (channels,), None without a bias.

    Returns:
        weight + up @ down, bias + shift.
    """
    weight = weight + (up @ down).view(weight.shape)
    return weight, None if bias is None or shift is None else bias + shift


class LoraConv2d(nn.Conv2d):
    """A convolution with changes for each scale, while they are trained.

    Attributes:
        lora_down: parameter, see the module.
        lora_up: parameter.
        lora_bias: parameter, None without a bias.
        row: index of the present scale; None for the weights as they are.
    """

    lora_down: nn.Parameter
    lora_up: nn.Parameter
    lora_bias: nn.Parameter | None
    row: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Convolves (B, in, H, W) with the weights of the present scale."""
        weight, bias, row = self.weight, self.bias, self.row
        if row is not None:
            shift = None if self.lora_bias is None else self.lora_bias[row]
            weight, bias = changed_weights(
                weight, bias, self.lora_down[row], self.lora_up[row], shift
            )
        return cast(Tensor, self._conv_forward(x, weight, bias))


def adapt(
    module: nn.Module, scales: int, rank: int, state: Mapping[str, Tensor] | None = None
) -> None:
    """Gives all convolutions of a network changes for each scale, in place.

    Its weights stay the same tensors, and nothing changes yet but what `state` holds.

    Args:
        module: the network.
        scales: how many there are.
        rank: of the changes, or the largest that a convolution has.
        state: the tensors of its file, for the changes that are there already, of any rank.
    """
    for name, conv in module.named_modules():
        if type(conv) is nn.Conv2d:
            down, up, shift = _starting_factors(conv, scales, rank, name, state or {})
            conv.__class__ = LoraConv2d
            for suffix, value in zip(LORA_SUFFIXES, (down, up, shift), strict=True):
                learns = None if value is None else nn.Parameter(value.to(conv.weight))
                conv.register_parameter(suffix.removeprefix("."), learns)


def _starting_factors(
    conv: nn.Conv2d, scales: int, rank: int, name: str, state: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Makes lora_down, lora_up and lora_bias of the convolution `name`."""
    channels, inputs = conv.out_channels, conv.weight[0].numel()
    down = state.get(name + LORA_DOWN, torch.zeros(scales, min(rank, channels, inputs), inputs))
    up = state.get(name + LORA_UP, torch.zeros(scales, channels, down.shape[1]))
    # of two factors that are zero neither would learn; as in the paper, one of them is random
    empty = (down == 0).all(2).all(1) & (up == 0).all(2).all(1)
    bound = 1 / math.sqrt(inputs)
    random = torch.empty_like(down).uniform_(-bound, bound)
    down = torch.where(empty[:, None, None], random, down)
    shift = None
    if conv.bias is not None:
        shift = state.get(name + LORA_BIAS, torch.zeros(scales, channels))
    return down, up, shift


def select_scale(module: nn.Module, row: int | None) -> None:
    """Sets the scale of all adapted convolutions of a network.

    Args:
        module: the network.
        row: index of the scale; None for the weights that all scales share.
    """
    for conv in module.modules():
        if isinstance(conv, LoraConv2d):
            conv.row = row


def fold_scale(
    state: Mapping[str, Tensor], scales: int, row: int | None, place: str
) -> dict[str, Tensor]:
    """Adds the changes of a scale to a part's weights.

    Args:
        state: the tensors of its file.
        scales: how many the model has; 0 where that is not known.
        row: index of the one it is loaded for; None leaves the weights as they are.
        place: the part's folder, for the error.

    Returns:
        The tensors of the network without changes; `state` stays as it is.

    Raises:
        ModelError: changes that do not fit the weights or the number of scales.
    """
    folded = {key: value for key, value in state.items() if not key.endswith(LORA_SUFFIXES)}
    names = {key.rsplit(".", 1)[0] for key in state.keys() - folded.keys()}
    for name in sorted(names):
        weight, bias, down, up, shift = _tensors_of(name, folded, state, scales, place)
        if row is not None:
            here = None if shift is None else shift[row]
            weight, bias = changed_weights(weight, bias, down[row], up[row], here)
            folded[f"{name}.weight"] = weight
            if bias is not None:
                folded[f"{name}.bias"] = bias
    return folded


def _tensors_of(
    name: str,
    shared: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    scales: int,
    place: str,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
    """Gives weight, bias, lora_down, lora_up and lora_bias of a convolution that has changes.

    Args:
        name: of the convolution.
        shared: the part's tensors without changes.
        state: see `fold_scale`.
        scales: see `fold_scale`.
        place: see `fold_scale`.

    Raises:
        ModelError: they do not fit together.
    """
    weight, bias = shared.get(f"{name}.weight"), shared.get(f"{name}.bias")
    down, up, shift = factors = [state.get(name + suffix) for suffix in LORA_SUFFIXES]
    if (
        weight is not None
        and down is not None
        and up is not None
        and _fit(weight, bias, down, up, shift, scales)
    ):
        return weight, bias, down, up, shift
    shapes = ", ".join(
        f"{suffix[1:]} {tuple(value.shape)}"
        for suffix, value in zip(LORA_SUFFIXES, factors, strict=True)
        if value is not None
    )
    raise ModelError(
        f"{place}: what {name} has of low-rank changes ({shapes}) fits neither a convolution of it "
        f"nor a model of {scales or 'any number of'} scales"
    )


def low_rank_factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factorises the change of that rank that is nearest to another in the L2 norm.

    Args:
        change: (channels, in, kh, kw).
        rank: at most; a convolution with fewer channels or inputs has less.

    Returns:
        (rank, in kh kw), (channels, rank), as large as each other; `up @ down` is the change.
    """
    u, s, v = torch.linalg.svd(change.flatten(1), full_matrices=False)
    roots = s[:rank].sqrt()
    return roots[:, None] * v[:rank], u[:, :rank] * roots


def _fit(
    weight: Tensor,
    bias: Tensor | None,
    down: Tensor,
    up: Tensor,
    shift: Tensor | None,
    scales: int,
) -> bool:
    """Tells whether changes have the shapes that the module's docstring says."""
    if weight.ndim != 4 or down.ndim != 3 or (bias is None) != (shift is None):
        return False
    count, rank = scales or len(down), down.shape[1]
    channels, inputs = weight.shape[0], weight[0].numel()
    return (
        down.shape == (count, rank, inputs)
        and up.shape == (count, channels, rank)
        and (shift is None or shift.shape == (count, channels))
    )
