"""Philox noise compiled by numba: rows of independent counters, written so that LLVM vectorises."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from wsisr_kernels.noise import constants as k

_ROUNDS = k.ROUNDS
_WORD = np.uint64(k.WORD)
_HALF = np.uint64(32)
_M0 = np.uint64(k.MULTIPLIER_0)
_M1 = np.uint64(k.MULTIPLIER_1)
_W0 = np.uint64(k.WEYL_0)
_W1 = np.uint64(k.WEYL_1)
_LN2 = k.LN2
_SQRT2_FRACTION = int(np.float64(k.SQRT2).view(np.int64)) & ((1 << 52) - 1)
_UNIT = k.UNIT
_QUADRANT = k.QUADRANT
_ANGLE = k.QUARTER_TURN_UNIT
_A0, _A1, _A2, _A3, _A4, _A5, _A6, _A7, _A8 = k.ATANH
_S0, _S1, _S2, _S3, _S4, _S5, _S6 = k.SIN
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = k.COS


@njit(cache=True, nogil=True, inline="always")
def _philox4x32(c0, c1, c2, c3, key0, key1):  # type: ignore[no-untyped-def]
    for _ in range(_ROUNDS):
        product0 = c0 * _M0
        product1 = c2 * _M1
        c0 = (product1 >> _HALF) ^ c1 ^ key0
        c1 = product1 & _WORD
        c2 = (product0 >> _HALF) ^ c3 ^ key1
        c3 = product0 & _WORD
        key0 = (key0 + _W0) & _WORD
        key1 = (key1 + _W1) & _WORD
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _row_of_words(words, row, column0, group, step, key0, key1):  # type: ignore[no-untyped-def]
    for x in range(words.shape[1]):
        column = np.uint64(column0 + x) & _WORD
        w0, w1, w2, w3 = _philox4x32(row, column, group, step, key0, key1)
        words[0, x] = np.int64(w0)
        words[1, x] = np.int64(w1)
        words[2, x] = np.int64(w2)
        words[3, x] = np.int64(w3)


@njit(cache=True, nogil=True)
def _row_of_logs(words, logs, bits):  # type: ignore[no-untyped-def]
    for x in range(words.shape[0]):
        logs[x] = (np.float64(words[x]) + 0.5) * _UNIT
    for x in range(words.shape[0]):
        exponent = (bits[x] >> 52) - 1023
        high = np.int64((bits[x] & ((1 << 52) - 1)) > _SQRT2_FRACTION)
        # Halving the mantissa is taking one from its exponent field.
        bits[x] = (bits[x] & ((1 << 52) - 1)) | ((1023 - high) << 52)
        mantissa = logs[x]
        s = (mantissa - 1.0) / (mantissa + 1.0)
        z = s * s
        p = _A8 * z + _A7
        p = p * z + _A6
        p = p * z + _A5
        p = p * z + _A4
        p = p * z + _A3
        p = p * z + _A2
        p = p * z + _A1
        p = p * z + _A0
        logs[x] = np.float64(exponent + high) * _LN2 + (s * 2.0) * p


@njit(cache=True, nogil=True)
def _row_of_normals(logs, words, first, second):  # type: ignore[no-untyped-def]
    for x in range(words.shape[0]):
        word = words[x]
        quadrant = word >> 30
        within = word & (_QUADRANT - 1)
        upper = within >= _QUADRANT // 2
        if upper:
            within = _QUADRANT - 1 - within
        angle = (np.float64(within) + 0.5) * _ANGLE
        z = angle * angle
        p = _S6 * z + _S5
        p = p * z + _S4
        p = p * z + _S3
        p = p * z + _S2
        p = p * z + _S1
        p = p * z + _S0
        near = angle * p
        q = _C7 * z + _C6
        q = q * z + _C5
        q = q * z + _C4
        q = q * z + _C3
        q = q * z + _C2
        q = q * z + _C1
        far = q * z + _C0
        swap = upper ^ ((quadrant & 1) == 1)
        sine = far if swap else near
        cosine = near if swap else far
        if quadrant >= 2:
            sine = -sine
        if (quadrant == 1) | (quadrant == 2):
            cosine = -cosine
        radius = math.sqrt(logs[x] * -2.0)
        first[x] = np.float32(radius * cosine)
        second[x] = np.float32(radius * sine)


@njit(cache=True, nogil=True)
def philox_normals(  # type: ignore[no-untyped-def]
    key0, key1, step, origins, height, width, channels
) -> NDArray[np.float32]:
    """Fills float32 (n, channels, height, width); origins int64 (n, 2), the rest integers."""
    out = np.empty((origins.shape[0], channels, height, width), dtype=np.float32)
    words = np.empty((4, width), dtype=np.int64)
    logs = np.empty(width, dtype=np.float64)
    bits = logs.view(np.int64)
    spare = np.empty(width, dtype=np.float32)
    for n in range(origins.shape[0]):
        for group in range((channels + 3) // 4):
            for y in range(height):
                row = np.uint64(origins[n, 0] + y) & _WORD
                _row_of_words(
                    words,
                    row,
                    origins[n, 1],
                    np.uint64(group),
                    np.uint64(step),
                    np.uint64(key0),
                    np.uint64(key1),
                )
                for pair in range(2):
                    channel = 4 * group + 2 * pair
                    if channel < channels:
                        second = out[n, channel + 1, y] if channel + 1 < channels else spare
                        _row_of_logs(words[2 * pair], logs, bits)
                        _row_of_normals(logs, words[2 * pair + 1], out[n, channel, y], second)
    return out
