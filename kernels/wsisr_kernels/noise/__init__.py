"""Normal noise addressed by global coordinates, so that every tile sees one and the same field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr_kernels.devices import uses_triton
from wsisr_kernels.noise import cpu

__all__ = ["philox_normal", "philox_normal_batch", "philox_uint32"]


def philox_normal(
    seed: int,
    step: int,
    row0: int,
    column0: int,
    height: int,
    width: int,
    channels: int,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Standard normal noise of one window, float32 (channels, height, width) on `device`.

    The value at (c, r, x) depends on seed, step, row0 + r, column0 + x and c alone, whatever
    window it is asked for in. It is Box-Muller on Philox4x32-10 (Salmon et al., SC 2011) with
    the counter words (row, column, c // 4, step) and the low and high half of `seed` as key;
    the words 0, 1 serve channels 4k, 4k + 1 and the words 2, 3 channels 4k + 2, 4k + 3.

    It is computed in float64 from additions, multiplications, divisions and square roots alone,
    rounded once to float32: every version, CPU or GPU, gives the same bits.

    Args:
        seed: 64 bits, -2**63 to 2**64 - 1 (negative ones as two's complement).
        step: index of the denoising step, 0 to 2**32 - 1.
        row0, column0: global position of the window's first value, -2**31 to 2**31 - 1.
        height, width, channels: size of the window, each >= 1.
        device: where the result lies; devices other than CUDA are filled from the CPU.

    Raises:
        ValueError: an argument is out of its range.
    """
    return philox_normal_batch(seed, step, [(row0, column0)], height, width, channels, device)[0]


def philox_normal_batch(
    seed: int,
    step: int,
    origins: Sequence[tuple[int, int]],
    height: int,
    width: int,
    channels: int,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """`philox_normal` for many windows at once, float32 (n, channels, height, width).

    `origins` holds the (row0, column0) of each of the n windows; the result equals that of n
    single calls, bit for bit. Raises ValueError as `philox_normal` does.
    """
    key, starts = _checked(seed, step, origins, height, width, channels)
    where = torch.device(device)
    if uses_triton(where):
        from wsisr_kernels.noise.gpu import philox_normals

        return philox_normals(key, step, starts, height, width, channels, where)
    noise = cpu.philox_normals(*key, step, starts, height, width, channels)
    return torch.from_numpy(noise).to(where)


def philox_uint32(
    seed: int,
    step: int,
    row0: int,
    column0: int,
    height: int,
    width: int,
    channels: int,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """The random words behind `philox_normal`, int64 (channels, height, width), 0 to 2**32 - 1.

    Arguments and errors are those of `philox_normal`.
    """
    key, starts = _checked(seed, step, [(row0, column0)], height, width, channels)
    where = torch.device(device)
    if uses_triton(where):
        from wsisr_kernels.noise.gpu import philox_words

        return philox_words(key, step, starts, height, width, channels, where)[0]
    words = cpu.philox_words(*key, step, starts, height, width, channels)[0]
    return torch.from_numpy(words).to(where)


def _checked(
    seed: int,
    step: int,
    origins: Sequence[tuple[int, int]],
    height: int,
    width: int,
    channels: int,
) -> tuple[tuple[int, int], NDArray[np.int64]]:
    if not -(1 << 63) <= seed < 1 << 64:
        raise ValueError(f"seed {seed} does not fit 64 bits")
    if not 0 <= step < 1 << 32:
        raise ValueError(f"step {step} is not in 0..2**32-1")
    if min(height, width, channels) < 1:
        raise ValueError(f"noise of {channels} x {height} x {width} values is empty")
    starts = np.array(origins, dtype=np.int64).reshape(-1, 2)
    limit = 1 << 31
    ends = starts + np.array([height, width])
    if (starts < -limit).any() or (ends > limit).any():
        raise ValueError("a row or column of the noise is outside -2**31..2**31-1")
    return (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF), starts
