r"""Trains stage 1 and the detail it leaves to stage 2, from one network's features.

    python -m train detail --config train/configs/tiny.yaml --data tiles --out runs/detail \
        --set init=runs/s1/restoration --set plain=runs/plain/model/restoration

What the plain baseline learns on top of stage 1 is read by its last layer from features that still
hold stage 1's image. This stage takes those features as they are, trains one convolution to read
the image by L1 again, and keeps, as the layer of detail, what the plain baseline's last layer adds
to it. So one run of the network gives stage 1's image and, at no cost to speak of, all of the plain
network's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic.dataclasses import dataclass
from torch import nn

from train.config import STRICT_KEYS, Text
from train.data import PairConfig
from train.loop import Run, run_stage
from train.stages.stage1 import train_restoration
from wsisr.errors import UsageError
from wsisr.models.files import load_restoration
from wsisr.models.networks import PlainNet, channels_last


@dataclass(frozen=True, config=STRICT_KEYS)
class DetailConfig(PairConfig):
    """Section `detail` of a config.

    Attributes:
        init: folder of stage 1, a `PlainNet`: its last layer is where the new one starts.
        plain: folder of the network that the stage `plain` made of it (its `restoration`).
    """

    init: Text = ""
    plain: Text = ""


def fit(config: DetailConfig, run: Run) -> None:
    """Trains, or goes on training; each validation writes restoration/.

    Raises:
        UsageError: the two networks are not PlainNets of one size.
    """
    stage1, plain = (load_restoration(Path(place)) for place in (config.init, config.plain))
    network = join_networks(stage1, plain)
    train_restoration(
        config, run, channels_last(network), "l1", True, lambda made: set_detail(made, plain)
    )


def join_networks(stage1: nn.Module, plain: nn.Module) -> PlainNet:
    """Puts the features of `plain`, frozen, below the last layer of `stage1`, which is trained.

    Raises:
        UsageError: they are not PlainNets of one size.
    """
    sizes = {
        (net.config["width"], net.config["blocks"]) if isinstance(net, PlainNet) else None
        for net in (stage1, plain)
    }
    size = sizes.pop()
    if size is None or sizes:
        raise UsageError("detail.init and detail.plain: must be PlainNets of one size")
    network: PlainNet = PlainNet(*size, detail=True)
    network.requires_grad_(False)
    last = {key: value for key, value in stage1.state_dict().items() if key.startswith("last.")}
    network.load_state_dict({**network.state_dict(), **plain.state_dict(), **last})
    network.last.requires_grad_(True)
    set_detail(network, plain)
    return network


@torch.no_grad()
def set_detail(network: nn.Module, plain: nn.Module) -> None:
    """Lets the layer of detail lead from the network's image to that of `plain`."""
    for name in ("weight", "bias"):
        own = network.get_parameter(f"last.{name}")
        wanted = plain.get_parameter(f"last.{name}").to(own.device)
        network.get_parameter(f"last_detail.{name}").copy_(wanted - own)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "detail", DetailConfig, fit, arguments)
