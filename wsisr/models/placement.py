"""Where a model keeps its weights: on its device, or in main memory where they do not fit."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import nn

Placement = Literal["device", "offload"]
WINDOW_BYTES = 3 * 2**29
"""What a window of 512 px takes beside the weights, in a Stable Diffusion-sized model."""

log = logging.getLogger(__name__)


def weight_bytes(model: nn.Module, precision: str) -> int:
    """Gives the bytes that a model's weights take while it runs.

    Args:
        model: has its weights in float32.
        precision: with half precision each weight is there a second time, in two bytes, while the
            networks run.
    """
    copies = 4 if precision == "fp32" else 6
    return copies * sum(parameter.numel() for parameter in model.parameters())


def choose_placement(model: nn.Module, precision: str, device: torch.device) -> Placement:
    """Keeps the weights in main memory where the free memory of a GPU is too small for them.

    Args:
        model: is not on the device yet.
        precision: it is run in.
        device: where it is to compute.
    """
    if device.type != "cuda":
        return "device"
    free, _ = torch.cuda.mem_get_info(device)
    need = weight_bytes(model, precision) + WINDOW_BYTES
    if need <= free:
        return "device"
    log.warning(
        "%s: the model needs %.1f GB and %.1f GB are free; its weights stay in main memory and are "
        "brought over for each step, which is slow",
        *(device, need / 1e9, free / 1e9),
    )
    return "offload"


def place(model: nn.Module, placement: Placement, device: torch.device) -> None:
    """Puts a model in its place, by accelerate where its weights stay in main memory.

    Several threads must not run a model whose weights come and go.

    Args:
        model: to place.
        placement: where its weights are kept.
        device: where it computes.
    """
    if placement == "device":
        model.to(device)
        return
    # only here: few need it, and it takes its time to import
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=device)
