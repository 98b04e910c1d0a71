"""How a network's weights lie in memory."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import nn

T = TypeVar("T", bound=nn.Module)


def channels_last(module: T) -> T:
    """Keeps 4-D weights with channels innermost, which convolutions are fastest with."""
    return cast(T, cast(Any, module).to(memory_format=torch.channels_last))
