"""The few loops that torch and numpy do slowly.

Each kernel has a plain reference and compiled versions that agree with it bit for bit, and one
function here that picks the version from where its data lies: numba on the CPU, Triton (optional)
on CUDA. `fit_blocks` works on finished bytes, which lie on the CPU, and has no Triton version.
"""

from __future__ import annotations

from wsisr_kernels.blending import blend_cell, blend_margin, blend_ramp
from wsisr_kernels.blocks import fit_blocks
from wsisr_kernels.noise import philox_normal_batch

__all__ = [
    "blend_cell",
    "blend_margin",
    "blend_ramp",
    "fit_blocks",
    "philox_normal_batch",
]
