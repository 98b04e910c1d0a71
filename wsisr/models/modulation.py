"""Networks that are told the scale: a gain and a shift for each channel of each convolution.

One set of weights serves all scales, but what suits one need not suit another: where the input
holds much, detail may be bold; where it holds little, it must be careful. Feature-wise linear
modulation (FiLM, Perez et al. 2018) by the scale gives each its own with two numbers a channel. A
scale stays the same for a whole slide, so the numbers are multiplied into the weights when a model
is loaded: what runs is the network without them, and costs what that costs.

In a part's safetensors file they lie beside the weights as NAME.modulation, of shape (scales, 2,
channels), the scales in the order of model.json; (scales, 1, channels) where the convolution has no
bias. Zeros change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from wsisr.errors import ModelError

SUFFIX = ".modulation"
STEP = 10.0
"""What is stored is a tenth of what acts. Adam moves all numbers alike, and these have further to
go than weights, which are small."""


def modulated(weight: Tensor, bias: Tensor | None, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
    """A convolution's weights for a scale.

    Args:
        weight: (channels, in, kh, kw).
        bias: (channels,) or None.
        numbers: (2, channels) gains and shifts as they are stored; (1, channels) without a bias.

    Returns:
        Weights and bias, so that the convolution gives gain * output + shift, the gain being
        1 + STEP * numbers[0] and the shift STEP * numbers[1].
    """
    gain = 1 + STEP * numbers[0]
    weight = weight * gain[:, None, None, None]
    return weight, None if bias is None else bias * gain + STEP * numbers[1]


class ModulatedConv2d(nn.Conv2d):
    """A convolution with modulations, while it is trained.

    Attributes:
        modulation: parameter (scales, 2 or 1, channels).
        row: index of the present scale; None for the weights as they are.
    """

    modulation: nn.Parameter
    row: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, channels, H', W')."""
        weight, bias = self.weight, self.bias
        if self.row is not None:
            weight, bias = modulated(weight, bias, self.modulation[self.row])
        return cast(Tensor, self._conv_forward(x, weight, bias))


def modulate(module: nn.Module, scales: int, state: Mapping[str, Tensor] | None = None) -> None:
    """Give all convolutions of a network modulations, in place; its weights stay the same tensors.

    Args:
        module: the network.
        scales: how many.
        state: the tensors of its file, for the modulations that are there already; others are 0.
    """
    for name, conv in module.named_modules():
        if type(conv) is nn.Conv2d:
            numbers = torch.zeros(scales, 1 if conv.bias is None else 2, conv.out_channels)
            numbers = (state or {}).get(name + SUFFIX, numbers)
            conv.__class__ = ModulatedConv2d
            conv.register_parameter("modulation", nn.Parameter(numbers.to(conv.weight)))


def select(module: nn.Module, row: int | None) -> None:
    """Set the scale of all modulated convolutions by its index; None for none."""
    for conv in module.modules():
        if isinstance(conv, ModulatedConv2d):
            conv.row = row


def fold(
    state: Mapping[str, Tensor], scales: int, row: int | None, place: str
) -> dict[str, Tensor]:
    """A part's tensors with its modulations multiplied in.

    Args:
        state: the tensors of its file.
        scales: how many the model has; 0 where that is not known.
        row: index of the one it is loaded for; None leaves the weights as they are.
        place: the part's folder, for the error.

    Returns:
        The tensors of the network without modulations; `state` stays as it is.

    Raises:
        ModelError: modulations that do not fit the weights or the number of scales.
    """
    folded = {key: value for key, value in state.items() if not key.endswith(SUFFIX)}
    for key in sorted(state.keys() - folded.keys()):
        name = key.removesuffix(SUFFIX)
        weight, bias = folded.get(f"{name}.weight"), folded.get(f"{name}.bias")
        kinds = 1 if bias is None else 2
        count = scales or len(state[key])
        if (
            weight is None
            or weight.ndim != 4
            or state[key].shape != (count, kinds, weight.shape[0])
        ):
            raise ModelError(
                f"{place}: {key} of shape {tuple(state[key].shape)} fits neither a convolution of "
                f"it nor {count} scales of a model"
            )
        if row is not None:
            weight, bias = modulated(weight, bias, state[key][row])
            folded[f"{name}.weight"] = weight
            if bias is not None:
                folded[f"{name}.bias"] = bias
    return folded
