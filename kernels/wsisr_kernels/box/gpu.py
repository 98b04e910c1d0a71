"""The 2x2 box in Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def _box(  # type: ignore[no-untyped-def]
    image,
    out,
    width,
    channels,
    image_row,
    image_column,
    image_channel,
    out_row,
    out_column,
    out_channel,
    BLOCK: tl.constexpr,
):
    y = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width * channels
    x = (at // channels).to(tl.int64)
    c = at % channels
    corner = image + 2 * y * image_row + 2 * x * image_column + c * image_channel
    a = tl.load(corner, mask=inside, other=0).to(tl.int32)
    b = tl.load(corner + image_column, mask=inside, other=0).to(tl.int32)
    corner += image_row
    d = tl.load(corner, mask=inside, other=0).to(tl.int32)
    e = tl.load(corner + image_column, mask=inside, other=0).to(tl.int32)
    mean = ((a + b + d + e + 2) >> 2).to(tl.uint8)
    tl.store(out + y * out_row + x * out_column + c * out_channel, mean, mask=inside)


def box2x2(image: torch.Tensor, out: torch.Tensor) -> None:
    """Write the box of uint8 (2 h, 2 w, channels) into uint8 (h, w, channels)."""
    height, width, channels = out.shape
    _box[(triton.cdiv(width * channels, BLOCK), height)](
        image, out, width, channels, *image.stride(), *out.stride(), BLOCK=BLOCK
    )
