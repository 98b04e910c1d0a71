"""Philox noise in Triton, the same bits as the CPU.

Launched without fused multiply-add: contraction would change the last bit of a few values in a
billion.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from wsisr_kernels.noise import constants as k

BLOCK = 256

ROUNDS = tl.constexpr(k.ROUNDS)
M0 = tl.constexpr(k.MULTIPLIER_0)
M1 = tl.constexpr(k.MULTIPLIER_1)
W0 = tl.constexpr(k.WEYL_0)
W1 = tl.constexpr(k.WEYL_1)
WORD = tl.constexpr(k.WORD)
LN2 = tl.constexpr(k.LN2)
SQRT2 = tl.constexpr(k.SQRT2)
UNIT = tl.constexpr(k.UNIT)
QUADRANT = tl.constexpr(k.QUADRANT)
ANGLE = tl.constexpr(k.QUARTER_TURN_UNIT)
A0, A1, A2, A3, A4, A5, A6, A7, A8 = (tl.constexpr(value) for value in k.ATANH)
S0, S1, S2, S3, S4, S5, S6 = (tl.constexpr(value) for value in k.SIN)
C0, C1, C2, C3, C4, C5, C6, C7 = (tl.constexpr(value) for value in k.COS)


@triton.jit
def philox4x32(c0, c1, c2, c3, key0, key1):  # type: ignore[no-untyped-def]
    """Runs ten rounds on int64 tensors of 32-bit words; the products need 64 unsigned bits."""
    for _ in range(ROUNDS):
        product0 = c0.to(tl.uint64) * M0
        product1 = c2.to(tl.uint64) * M1
        c0 = ((product1 >> 32).to(tl.int64)) ^ c1 ^ key0
        c1 = product1.to(tl.int64) & WORD
        c2 = ((product0 >> 32).to(tl.int64)) ^ c3 ^ key1
        c3 = product0.to(tl.int64) & WORD
        key0 = (key0 + W0) & WORD
        key1 = (key1 + W1) & WORD
    return c0, c1, c2, c3


@triton.jit
def _radius(word):  # type: ignore[no-untyped-def]
    u = (word.to(tl.float64) + 0.5) * UNIT
    bits = u.to(tl.int64, bitcast=True)
    exponent = (bits >> 52) - 1023
    mantissa = ((bits & 0xFFFFFFFFFFFFF) | 0x3FF0000000000000).to(tl.float64, bitcast=True)
    high = mantissa > SQRT2
    mantissa = tl.where(high, mantissa * 0.5, mantissa)
    exponent = tl.where(high, exponent + 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    p = z * A8 + A7
    p = p * z + A6
    p = p * z + A5
    p = p * z + A4
    p = p * z + A3
    p = p * z + A2
    p = p * z + A1
    p = p * z + A0
    log = exponent.to(tl.float64) * LN2 + (s * 2.0) * p
    return tl.sqrt(log * -2.0)


@triton.jit
def _sin_cos(word):  # type: ignore[no-untyped-def]
    quadrant = word >> 30
    within = word & (QUADRANT - 1)
    upper = within >= QUADRANT // 2
    within = tl.where(upper, QUADRANT - 1 - within, within)
    angle = (within.to(tl.float64) + 0.5) * ANGLE
    z = angle * angle
    p = z * S6 + S5
    p = p * z + S4
    p = p * z + S3
    p = p * z + S2
    p = p * z + S1
    p = p * z + S0
    near = angle * p
    q = z * C7 + C6
    q = q * z + C5
    q = q * z + C4
    q = q * z + C3
    q = q * z + C2
    q = q * z + C1
    far = q * z + C0
    swap = upper ^ ((quadrant & 1) == 1)
    sine = tl.where(swap, far, near)
    cosine = tl.where(swap, near, far)
    sine = tl.where(quadrant >= 2, -sine, sine)
    cosine = tl.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    return sine, cosine


@triton.jit(do_not_specialize=["key0", "key1", "step"])
def _fill(  # type: ignore[no-untyped-def]
    out,
    origins,
    key0,
    key1,
    step,
    height,
    width,
    channels,
    groups,
    BLOCK: tl.constexpr,
):
    window = tl.program_id(1) // groups
    group = tl.program_id(1) % groups
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    row = (tl.load(origins + 2 * window) + at // width) & WORD
    column = (tl.load(origins + 2 * window + 1) + at % width) & WORD
    zero = at.to(tl.int64) * 0
    w0, w1, w2, w3 = philox4x32(row, column, zero + group, zero + step, zero + key0, zero + key1)
    channel = 4 * group
    left = at * 0 + (channels - channel)
    target = out + (window.to(tl.int64) * channels + channel) * height * width + at
    plane = height * width
    radius = _radius(w0)
    sine, cosine = _sin_cos(w1)
    tl.store(target, (radius * cosine).to(tl.float32), mask=inside)
    tl.store(target + plane, (radius * sine).to(tl.float32), mask=inside & (left > 1))
    radius = _radius(w2)
    sine, cosine = _sin_cos(w3)
    tl.store(target + 2 * plane, (radius * cosine).to(tl.float32), mask=inside & (left > 2))
    tl.store(target + 3 * plane, (radius * sine).to(tl.float32), mask=inside & (left > 3))


def philox_normals(
    key: tuple[int, int],
    step: int,
    origins: NDArray[np.int64],
    height: int,
    width: int,
    channels: int,
    device: torch.device,
) -> torch.Tensor:
    """Fills float32 (n, channels, height, width) on `device`; origins are int64 (n, 2)."""
    n = len(origins)
    out = torch.empty((n, channels, height, width), dtype=torch.float32, device=device)
    if n == 0:
        return out
    groups = -(-channels // 4)
    starts = torch.from_numpy(origins).to(device)
    _fill[(triton.cdiv(height * width, BLOCK), n * groups)](
        out,
        starts,
        key[0],
        key[1],
        step,
        height,
        width,
        channels,
        groups,
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
    return out
