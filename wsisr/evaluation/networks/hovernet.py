"""HoVer-Net (Graham et al. 2019) in its original form: patches of 270 px in, maps of 80 px out.

A pre-activated ResNet-50 without padding at the start, and a densely connected decoder for each
map: `np` (nucleus or not), `hv` (where in the nucleus: horizontal and vertical distance to its
centre) and, in weights that classify, `tp`. Takes the authors' PyTorch checkpoints of both
naming generations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.evaluation.networks.states import fill_frozen

PATCH, OUTPUT = 270, 80
STAGES = ((64, 64, 3, 1), (256, 128, 4, 2), (512, 256, 6, 2), (1024, 512, 3, 2))
"""(channels in, width, units, stride) of each stage of the encoder."""
GROUPS = 4
PUBLISHED_NAMES = (
    ("conv0./.", "conv0.conv."),
    ("preact_bna/bn.", "preact_bn."),
    ("preact/bn.", "preact_bn."),
    ("conv1/bn.", "conv1_bn."),
    ("conv2/bn.", "conv2_bn."),
)


class ResidualUnit(nn.Module):
    """Normalizes, then 1x1, 3x3, 1x1; the first of a stage comes already normalized."""

    def __init__(self, inputs: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.preact_bn = nn.Identity() if first else nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.conv1_bn = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, bias=False)
        self.conv2_bn = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.first = first
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, 4 width, h / stride, w / stride)."""
        y = x if self.first else F.relu(self.preact_bn(x))
        y = F.relu(self.conv1_bn(self.conv1(y)))
        y = F.relu(self.conv2_bn(self.conv2(_same(y, 3, self.stride))))
        return cast(Tensor, self.conv3(y))


class ResidualStage(nn.Module):
    """Applies units in sequence and a normalization at the end."""

    def __init__(self, inputs: int, width: int, units: int, stride: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            ResidualUnit(4 * width if n else inputs, width, 1 if n else stride, n == 0)
            for n in range(units)
        )
        self.shortcut = nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False)
        self.blk_bna = nn.Sequential()
        self.blk_bna.add_module("bn", nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, 4 width, h / stride, w / stride)."""
        carried = self.shortcut(x)
        for number, unit in enumerate(self.units):
            carried = carried + unit(x if number == 0 else carried)
        return F.relu(self.blk_bna(carried))


class DenseUnit(nn.Module):
    """Normalizes, then 1x1 and a grouped 5x5 without padding: 32 new channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.preact_bn = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, 128, 1, bias=False)
        self.conv1_bn = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 32, 5, groups=GROUPS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, inputs + 32, h - 4, w - 4)."""
        y = F.relu(self.conv1_bn(self.conv1(F.relu(self.preact_bn(x)))))
        return torch.cat([_crop(x, x.shape[-1] - 4), self.conv2(y)], dim=1)


class DenseBlock(nn.Module):
    """Applies units that each add to what they got, and a normalization at the end."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(DenseUnit(inputs + 32 * n) for n in range(units))
        self.blk_bna = nn.Sequential()
        self.blk_bna.add_module("bn", nn.BatchNorm2d(inputs + 32 * units))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, inputs + 32 units, h - 4 units, w - 4 units)."""
        for unit in self.units:
            x = unit(x)
        return F.relu(self.blk_bna(x))


class DecoderLevel(nn.Module):
    """Applies 5x5, a dense block, 1x1."""

    def __init__(self, inputs: int, width: int, units: int) -> None:
        super().__init__()
        self.conva = nn.Conv2d(inputs, width, 5, bias=False)
        self.dense = DenseBlock(width, units)
        outputs = width + 32 * units
        self.convf = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, outputs, h - 4 - 4 units, w - 4 - 4 units)."""
        return cast(Tensor, self.convf(self.dense(self.conva(x))))


class Decoder(nn.Module):
    """Makes one map of the encoder's stages."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.u3 = DecoderLevel(1024, 256, 8)
        self.u2 = DecoderLevel(512, 128, 4)
        self.u1 = nn.Sequential()
        self.u1.add_module("conva", nn.Conv2d(256, 64, 5, padding=2, bias=False))
        self.u0 = nn.Sequential()
        self.u0.add_module("bn", nn.BatchNorm2d(64))
        self.u0.add_module("relu", nn.ReLU())
        self.u0.add_module("conv", nn.Conv2d(64, outputs, 1))

    def forward(self, stages: list[Tensor]) -> Tensor:
        """Maps four stages, coarsest last, to (n, outputs, 80, 80)."""
        x = self.u3(_doubled(stages[3]) + stages[2])
        x = self.u2(_doubled(x) + stages[1])
        return cast(Tensor, self.u0(self.u1(_doubled(x) + stages[0])))


class HoVerNet(nn.Module):
    """Maps (n, 3, 270, 270) RGB in 0..255 to {map: (n, channels, 80, 80)}, not normalized.

    Args:
        types: number of classes of `tp`, background included; None for weights without it.
    """

    def __init__(self, types: int | None = None) -> None:
        super().__init__()
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, 64, 7, bias=False))
        self.conv0.add_module("bn", nn.BatchNorm2d(64))
        self.conv0.add_module("relu", nn.ReLU())
        for number, stage in enumerate(STAGES):
            self.add_module(f"d{number}", ResidualStage(*stage))
        self.conv_bot = nn.Conv2d(2048, 1024, 1, bias=False)
        branches = {} if types is None else {"tp": Decoder(types)}
        self.decoder = nn.ModuleDict(branches | {"np": Decoder(2), "hv": Decoder(2)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes all maps."""
        x = self.conv0(x / 255)
        stages = []
        for number in range(len(STAGES)):
            x = self.get_submodule(f"d{number}")(x)
            stages.append(x)
        # the decoder's convolutions without padding leave the middle of the finer stages
        stages[0], stages[1] = _crop(stages[0], 80), _crop(stages[1], 60)
        stages[3] = self.conv_bot(stages[3])
        return {name: branch(stages) for name, branch in self.decoder.items()}


def build_hovernet(state: Mapping[str, Tensor], origin: str) -> HoVerNet:
    """Builds the network of a published checkpoint's tensors.

    Args:
        state: the tensors.
        origin: where they come from, for messages.

    Returns:
        The network.

    Raises:
        ModelError: the tensors are others.
    """
    renamed = {}
    for name, value in state.items():
        if name.endswith("unpool_mat"):
            continue
        for published, own in PUBLISHED_NAMES:
            name = name.replace(published, own)
        renamed[name.removeprefix("module.")] = value
    classes = renamed.get("decoder.tp.u0.conv.weight")
    network = HoVerNet(None if classes is None else len(classes))
    return cast(HoVerNet, fill_frozen(network, renamed, origin))


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pads so that the output has size / stride places, the odd pixel at the end (TensorFlow)."""
    size = x.shape[-1]
    total = max(kernel - (size % stride or stride), 0)
    before = total // 2
    return F.pad(x, (before, total - before, before, total - before))


def _crop(x: Tensor, side: int) -> Tensor:
    start = (x.shape[-1] - side) // 2
    return x[..., start : start + side, start : start + side]


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
