"""What of a machine makes the pixels: arithmetic differs in its last bit from one to another."""

from __future__ import annotations

import platform

import torch


def describe_machine(device: torch.device) -> dict[str, str]:
    """Says what arithmetic rests on, in plain JSON values: device, instructions, torch.

    Rows of two machines that differ in it can differ by a grey level, so a run is gone on from only
    where it is the same. Which GPU of its kind it is is not asked, for that would occupy it.

    Args:
        device: where the model runs.
    """
    found = {"device": device.type, "torch": torch.__version__.split("+")[0]}
    if device.type == "cpu":
        found["instructions"] = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return found


def without_machine(provenance: dict[str, object]) -> dict[str, object]:
    """Gives what makes the pixels up to their last bit, whatever machine they were made on."""
    return {name: value for name, value in provenance.items() if name != "machine"}
