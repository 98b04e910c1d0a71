"""Philox noise in plain numpy: the definition the other versions are held to, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsisr_kernels.noise import constants as k

Words = NDArray[np.uint64]


def philox4x32(counter: Sequence[Words], key: tuple[int, int]) -> list[Words]:
    """Runs ten rounds of Philox4x32 on four 32-bit counter words kept in uint64 arrays.

    The four arrays broadcast together; returns four uint64 arrays of values below 2**32.
    """
    c0, c1, c2, c3 = counter
    key0, key1 = key
    word = np.uint64(k.WORD)
    half = np.uint64(32)
    for _ in range(k.ROUNDS):
        product0 = c0 * np.uint64(k.MULTIPLIER_0)
        product1 = c2 * np.uint64(k.MULTIPLIER_1)
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ np.uint64(key0),
            product1 & word,
            (product0 >> half) ^ c3 ^ np.uint64(key1),
            product0 & word,
        )
        key0 = (key0 + k.WEYL_0) & k.WORD
        key1 = (key1 + k.WEYL_1) & k.WORD
    return [c0, c1, c2, c3]


def philox_words(
    key: tuple[int, int],
    step: int,
    origins: NDArray[np.int64],
    height: int,
    width: int,
    channels: int,
) -> NDArray[np.int64]:
    """Gives the random words, int64 (n, channels, height, width) in 0..2**32-1."""
    word = np.uint64(k.WORD)
    rows = (origins[:, :1] + np.arange(height)).astype(np.uint64) & word
    columns = (origins[:, 1:] + np.arange(width)).astype(np.uint64) & word
    groups = -(-channels // 4)
    counter = np.broadcast_arrays(
        rows[:, None, :, None],
        columns[:, None, None, :],
        np.arange(groups, dtype=np.uint64)[None, :, None, None],
        np.full((1, 1, 1, 1), step, dtype=np.uint64),
    )
    words = np.stack(philox4x32(counter, key), axis=2)
    n = len(origins)
    return words.reshape(n, groups * 4, height, width)[:, :channels].astype(np.int64)


def polynomial(x: NDArray[np.float64], coefficients: Sequence[float]) -> NDArray[np.float64]:
    """Evaluates by Horner's scheme, multiplication and addition rounded separately."""
    value = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def log(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes the natural logarithm of numbers in (0, 1) from IEEE basic operations alone.

    u = m 2**e with m in (sqrt(1/2), sqrt(2)]; ln m = 2 artanh((m - 1) / (m + 1)).
    """
    bits = u.view(np.int64)
    exponent = (bits >> 52) - 1023
    mantissa = ((bits & ((1 << 52) - 1)) | (1023 << 52)).view(np.float64)
    high = mantissa > k.SQRT2
    mantissa = np.where(high, mantissa * 0.5, mantissa)
    exponent = np.where(high, exponent + 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * k.LN2 + (s * 2.0) * polynomial(s * s, k.ATANH)


def sin_cos(word: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes sine and cosine of 2 pi (word + 1/2) / 2**32, reduced in integers, exactly."""
    quadrant = word >> 30
    within = word & (k.QUADRANT - 1)
    upper = within >= k.QUADRANT // 2
    within = np.where(upper, k.QUADRANT - 1 - within, within)
    angle = (within.astype(np.float64) + 0.5) * k.QUARTER_TURN_UNIT
    square = angle * angle
    sine = angle * polynomial(square, k.SIN)
    cosine = polynomial(square, k.COS)
    swap = upper ^ ((quadrant & 1) == 1)
    sine, cosine = np.where(swap, cosine, sine), np.where(swap, sine, cosine)
    sine = np.where(quadrant >= 2, -sine, sine)
    cosine = np.where((quadrant == 1) | (quadrant == 2), -cosine, cosine)
    return sine, cosine


def normals(words: NDArray[np.int64]) -> NDArray[np.float32]:
    """Applies Box-Muller to words (n, channels, height, width) of an even number of channels.

    Channels 2m and 2m + 1 are the cosine and the sine branch of one pair of words.
    """
    first, second = words[:, 0::2], words[:, 1::2]
    radius = np.sqrt(log((first.astype(np.float64) + 0.5) * k.UNIT) * -2.0)
    sine, cosine = sin_cos(second)
    out = np.empty(words.shape, dtype=np.float32)
    out[:, 0::2] = radius * cosine
    out[:, 1::2] = radius * sine
    return out


def philox_normals(
    key: tuple[int, int],
    step: int,
    origins: NDArray[np.int64],
    height: int,
    width: int,
    channels: int,
) -> NDArray[np.float32]:
    """Gives float32 (n, channels, height, width); origins are int64 (n, 2)."""
    even = channels + channels % 2
    return normals(philox_words(key, step, origins, height, width, even))[:, :channels]
