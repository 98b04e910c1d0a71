"""Which networks have a light form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from wsisr.models.light.autoencoder import LightAutoencoder, LightGuidedAutoencoder
from wsisr.models.light.config import AUTOENCODER, DIFFUSION, Config, fits
from wsisr.models.light.plain import LightPlainNet
from wsisr.models.light.unet import LightControlNet, LightUNet

LIGHT: Mapping[str, tuple[Callable[[Config], nn.Module], Mapping[str, tuple[Any, ...]]]] = {
    "UNet2DConditionModel": (LightUNet, DIFFUSION),
    "LatentControlNet": (LightControlNet, DIFFUSION),
    "AutoencoderTiny": (LightAutoencoder, AUTOENCODER),
    "GuidedAutoencoderTiny": (LightGuidedAutoencoder, AUTOENCODER),
    "PlainNet": (
        lambda config: LightPlainNet(config.width, config.blocks, config.get("detail", False)),
        {},
    ),
}
"""Class in model.json -> what makes its light form, and the settings that it can do."""


def light_network(name: str, config: Mapping[str, Any]) -> nn.Module | None:
    """Makes the light form of a network, its parameters not allocated.

    Args:
        name: of its class.
        config: its config.json.

    Returns:
        The network on the meta device; None where it has none, or one that cannot do what the
        configuration asks for. diffusers' own network is then the one to take, which fills in what
        the configuration leaves out and says what is wrong with it.
    """
    if name not in LIGHT or not fits(config, LIGHT[name][1]):
        return None
    try:
        with torch.device("meta"):
            return LIGHT[name][0](Config(config))
    except Exception:  # a network of a wrong description raises errors of any kind
        return None
