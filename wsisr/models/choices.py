"""Names of the choices that a model's settings offer, for those who must not wait for torch.

`wsisr upscale --help` lists them. What each name stands for is registered where it is defined:
`wsisr.models.precision.PRECISIONS` and `wsisr.models.colour.COLOR_FIXES`; a test holds that the
names agree.
"""

from __future__ import annotations

PRECISION_NAMES = ("fp32", "bf16", "fp16")
COLOR_FIX_NAMES = ("wavelet", "adain", "none")
CONSISTENCY_NAMES = ("soft", "exact", "off")
