"""The blend compiled by numba: row by row, so that each row of the window is in cache once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

_HALF = np.float32(0.5)
_ZERO = np.float32(0)
_FULL = np.float32(255)
_EXPONENT = np.int32(0x7F800000)


def blend_cell(
    window: torch.Tensor,
    left: torch.Tensor | None,
    above: torch.Tensor | None,
    ramp: torch.Tensor,
    out: torch.Tensor,
    below: torch.Tensor | None,
) -> bool:
    """See `wsisr_kernels.blend_cell`; all are C-contiguous tensors on the CPU."""
    pixels = _rows(window)
    bits = pixels.view(np.int32) if pixels.dtype == np.float32 else np.empty((0, 0), np.int32)
    weights = np.repeat(ramp.numpy(), 3)
    return bool(_blend(pixels, bits, _rows(left), _rows(above), weights, _rows(out), _rows(below)))


def _rows(item: torch.Tensor | None) -> NDArray[Any]:
    if item is None or not item.numel():
        return np.empty((0, 0), np.float32)
    return item.numpy().reshape(len(item), -1)


@njit(cache=True, nogil=True)
def _largest_exponent(bits: NDArray[np.int32]) -> np.int32:
    largest = np.int32(0)
    for at in range(bits.size):
        largest = max(largest, bits[at] & _EXPONENT)
    return largest


@njit(cache=True, nogil=True)
def _mix(before, after, weights, into):  # type: ignore[no-untyped-def]
    for at in range(into.size):
        into[at] = before[at] + weights[at] * (np.float32(after[at]) - before[at])


@njit(cache=True, nogil=True)
def _mix_evenly(before, after, weight, into):  # type: ignore[no-untyped-def]
    for at in range(into.size):
        into[at] = before[at] + weight * (np.float32(after[at]) - before[at])


@njit(cache=True, nogil=True)
def _round(values, into):  # type: ignore[no-untyped-def]
    for at in range(into.size):
        into[at] = np.uint8(np.int32(min(max(values[at] + _HALF, _ZERO), _FULL)))


@njit(cache=True, nogil=True)
def _blend(window, bits, left, above, weights, out, below):  # type: ignore[no-untyped-def]
    side = window.shape[0]
    height, width = out.shape
    shared = min(left.shape[1], width)
    overlap = below.shape[0]
    line = np.empty(width, dtype=np.float32)
    largest = np.int32(0)
    for row in range(side):
        if bits.size:
            # here and not before, so that a row comes from memory once
            largest = max(largest, _largest_exponent(bits[row]))
        kept = row >= side - overlap
        if row >= height and not kept:
            continue
        leads = row < min(above.shape[0], height)
        if shared:
            _mix(left[row], window[row], weights, line[:shared])
        if leads or kept:
            for at in range(shared, width):
                line[at] = np.float32(window[row, at])
        if kept:
            below[row - (side - overlap)] = line
        if leads:
            _mix_evenly(above[row], line, weights[3 * row], line)
        if row < height:
            if leads:
                _round(line, out[row])
            else:
                _round(line[:shared], out[row, :shared])
                _round(window[row, shared:width], out[row, shared:])
    return largest != _EXPONENT
