"""Normal noise addressed by global coordinates, so that every tile sees one and the same field."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from wsisr_kernels.devices import uses_triton
from wsisr_kernels.noise import cpu

__all__ = ["philox_normal_batch"]


def philox_normal_batch(
    seed: int,
    step: int,
    origins: Sequence[tuple[int, int]],
    height: int,
    width: int,
    channels: int,
    device: str | torch.device = "cpu",
) -> torch.Tensor:
    """Gives standard normal noise of windows, addressed by their places.

    The value at (c, r, x) of a window depends on seed, step, row0 + r, column0 + x and c alone,
    whatever window it is asked for in. It is Box-Muller on Philox4x32-10 (Salmon et al., SC 2011)
    with the counter words (row, column, c // 4, step) and the low and high half of `seed` as key;
    the words 0, 1 serve channels 4k, 4k + 1 and the words 2, 3 channels 4k + 2, 4k + 3.

    It is computed in float64 from additions, multiplications, divisions and square roots alone,
    rounded once to float32: every version, CPU or GPU, gives the same bits.

    Args:
        seed: 64 bits, -2**63 to 2**64 - 1 (negative ones as two's complement).
        step: index of the denoising step, 0 to 2**32 - 1.
        origins: (row0, column0) of each of the n windows, the global position of its first value,
            -2**31 to 2**31 - 1.
        height: of a window, >= 1.
        width: of a window, >= 1.
        channels: of a window, >= 1.
        device: where the result lies; devices other than CUDA are filled from the CPU.

    Returns:
        (n, channels, height, width) float32.

    Raises:
        ValueError: an argument is out of its range.
    """
    key, starts = _checked(seed, step, origins, height, width, channels)
    where = torch.device(device)
    if uses_triton(where):
        from wsisr_kernels.noise.gpu import philox_normals

        return philox_normals(key, step, starts, height, width, channels, where)
    noise = cpu.philox_normals(*key, step, starts, height, width, channels)
    return torch.from_numpy(noise).to(where)


def _checked(
    seed: int,
    step: int,
    origins: Sequence[tuple[int, int]],
    height: int,
    width: int,
    channels: int,
) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Checks the arguments of `philox_normal_batch`: its key, and the origins as an array."""
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
