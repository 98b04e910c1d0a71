"""The few loops that torch and numpy do slowly.

Each kernel has a plain reference, a CPU version and a Triton version that agree bit for bit, and
one function here that picks the version from where its data lies. Triton is optional.
"""

from __future__ import annotations

from wsisr_kernels.blending import blend_cell, blend_margin, blend_ramp
from wsisr_kernels.blocks import fit_blocks
from wsisr_kernels.box import box2x2
from wsisr_kernels.noise import philox_normal, philox_normal_batch, philox_uint32

__all__ = [
    "blend_cell",
    "blend_margin",
    "blend_ramp",
    "box2x2",
    "fit_blocks",
    "philox_normal",
    "philox_normal_batch",
    "philox_uint32",
]
