"""The averaged weights, which are validated and exported in place of the latest ones.

`diffusers.training_utils.EMAModel` averages a list of parameters that have no names, keeps copies
of the frozen ones and imports transformers where that is installed. Exports, checkpoints and the
frozen networks of a pretrained base need names and no copies, so the average is taken here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Ema:
    """The exponential moving average of a module's weights, with a warm-up of its decay.

    Frozen parameters do not move: their average is they themselves, without a copy.

    Attributes:
        decay: decay of the average once it is warm.
        shadow: the averaged state dict.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        frozen = frozen_keys(module)
        self.shadow = {
            key: value.detach() if key in frozen else value.detach().clone()
            for key, value in module.state_dict().items()
        }
        self._moving = [key for key in self.shadow if key not in frozen]
        self._state: dict[str, Tensor] = {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over a saved average, which leaves out frozen parameters."""
        for key in self._moving:
            self.shadow[key].copy_(state[key])

    def follow(self, module: nn.Module) -> None:
        """Moves the average to the module's device; `update` looks at this module's weights.

        They change in place only, so they are looked up once: the loop that launches a GPU's
        kernels has no time to walk through a module.
        """
        self._state = module.state_dict()
        for key, value in self._state.items():
            moving = self.shadow[key].to(value.device) if key in self._moving else value
            self.shadow[key] = moving

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Moves the average towards the present weights."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        pairs = [(self.shadow[key], self._state[key]) for key in self._moving]
        real = [pair for pair in pairs if pair[1].is_floating_point()]
        if real:
            shadows, values = zip(*real, strict=True)
            torch._foreach_lerp_(list(shadows), list(values), 1 - decay)
        for shadow, value in pairs:
            if not value.is_floating_point():
                shadow.copy_(value)


def frozen_keys(module: nn.Module) -> set[str]:
    """Gives the names of the parameters that are not trained."""
    return {name for name, value in module.named_parameters() if not value.requires_grad}
