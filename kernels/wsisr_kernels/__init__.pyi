from .blending import blend_cell as blend_cell
from .blocks import fit_blocks as fit_blocks
from .noise import philox_normal_batch as philox_normal_batch
from .ramp import blend_margin as blend_margin
from .ramp import blend_ramp as blend_ramp
