"""torch.compile, block by block, for static shapes.

Every window of a run has one shape, so a block is compiled once for it. Blocks rather than whole
networks: equal ones share their code, which cuts the wait before the first window.
"""

from __future__ import annotations

import torch
from torch import nn

from wsisr.errors import ModelError

CONTAINERS = ("layers", "body", "down_blocks", "up_blocks")
"""Attributes of the networks that hold their repeated blocks."""
WHOLE = ("mid_block", "encoder", "decoder")
"""Parts that are one block: those of an autoencoder differ from each other too much to share."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Lists the blocks that are compiled, none inside another."""
    found: list[nn.Module] = []
    for name, child in model.named_children():
        if name in WHOLE:
            found.append(child)
        elif name in CONTAINERS and isinstance(child, nn.ModuleList | nn.Sequential):
            found.extend(child)
        else:
            found.extend(blocks_of(child))
    return found


def compile_blocks(model: nn.Module) -> None:
    """Lets the model's blocks compile themselves at their first call.

    Args:
        model: whose blocks to compile, in place.

    Raises:
        ModelError: this machine cannot compile, for instance for want of a C++ compiler.
    """
    check_compiler()
    for block in blocks_of(model):
        block.compile(dynamic=False)


def check_compiler() -> None:
    """Compiles a sum, so that what fails does so before a model's first call.

    Raises:
        ModelError: torch cannot compile on this machine.
    """
    try:
        torch.compile(torch.add, dynamic=False)(torch.ones(2), torch.ones(2))
    except Exception as error:  # of torch's compiler, its back end or the C++ compiler behind it
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            f"<compile>: torch cannot compile on this machine ({reason}); install a C++ compiler "
            "or leave the option out"
        ) from error
