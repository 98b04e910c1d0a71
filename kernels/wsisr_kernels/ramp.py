"""The weights of a window where it overlaps its neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def blend_margin(overlap: int) -> int:
    """Gives how far from its edge a window has no weight where another covers it.

    It is a quarter of what they share. A network pads a window with zeros, so its outermost pixels
    are worse than the rest: with the shipped model the outer 8 px differ from the same pixels amid
    a window by 3 to 6 grey levels, those 16 to 24 px further in by 0.7 to 2.2.

    Args:
        overlap: that neighbouring windows share, px or latents.

    Returns:
        The margin, in the same unit.
    """
    return overlap // 4


def blend_ramp(overlap: int) -> NDArray[np.float32]:
    """Gives the weights of a window over its leading `overlap` pixels or latents.

    Zero in the margin, a raised cosine at the pixels' centres between the margins, one in the
    other window's margin. It is symmetric about the middle of the overlap, (overlap - 1) / 2, so
    that it and its mirror image sum to one.

    Args:
        overlap: that neighbouring windows share, px or latents.

    Returns:
        (overlap,) float32.
    """
    margin = blend_margin(overlap)
    centres = (np.arange(overlap) + 0.5 - margin) / max(overlap - 2 * margin, 1)
    return (0.5 - 0.5 * np.cos(np.pi * centres.clip(0, 1))).astype(np.float32)
