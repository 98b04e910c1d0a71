"""What of a machine makes the pixels: arithmetic differs in its last bit from one to another."""

from __future__ import annotations

import os
import platform
from importlib import import_module
from importlib.metadata import version

LEVELS = {
    "AVX512": ("AVX512F", "AVX512VL", "AVX512BW", "AVX512DQ"),
    "AVX2": ("AVX2", "FMA3"),
}
"""Sets of instructions that torch has kernels for, the best first -> what a processor needs."""


def describe_machine(device: str) -> dict[str, str]:
    """Says what arithmetic rests on, in plain JSON values: device, instructions, torch.

    Rows of two machines that differ in it can differ by a grey level, so a run is gone on from only
    where it is the same. Which GPU of its kind it is is not asked, for that would occupy it.

    Args:
        device: where the model runs, by torch's name.
    """
    kind = device.partition(":")[0]
    found = {"device": kind, "torch": version("torch").split("+")[0]}
    if kind == "cpu":
        found["instructions"] = f"{platform.machine()} {instructions()}"
    return found


def instructions() -> str:
    """Names the set of instructions that torch uses, as it would itself, without importing it."""
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    if asked in (*LEVELS, "DEFAULT"):
        return asked
    has = import_module("numpy._core._multiarray_umath").__cpu_features__
    return next(
        (name for name, wanted in LEVELS.items() if all(has.get(each) for each in wanted)),
        "DEFAULT",
    )


def without_machine(provenance: dict[str, object]) -> dict[str, object]:
    """Gives what makes the pixels up to their last bit, whatever machine they were made on."""
    return {name: value for name, value in provenance.items() if name != "machine"}
