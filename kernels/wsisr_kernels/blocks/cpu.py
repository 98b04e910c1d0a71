"""The fit compiled by numba: one pass over the sums, and work only where a mean is wrong."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def _start(row, column):  # type: ignore[no-untyped-def]
    mixed = (row * 73856093) ^ (column * 19349663)
    mixed = (mixed ^ (mixed >> 13)) * 1274126177
    return (mixed ^ (mixed >> 16)) & 0x7FFFFFFF


@njit(cache=True, nogil=True)
def _pour(pixels, top, left, channel, side, need, sign, start, step):  # type: ignore[no-untyped-def]
    count = side * side
    limit = 255 if sign > 0 else 0
    while need > 0:
        free = 0
        for y in range(top, top + side):
            for x in range(left, left + side):
                free += pixels[y, x, channel] != limit
        share = need // free
        place = start % count
        for _ in range(count):
            y, x = top + place // side, left + place % side
            place = (place + step) % count
            value = int(pixels[y, x, channel])
            room = limit - value if sign > 0 else value
            given = min(room, share if share > 0 else 1)
            if given == 0:
                continue
            pixels[y, x, channel] = value + sign * given
            need -= given
            if need == 0:
                return


@njit(cache=True, nogil=True)
def fit_blocks(pixels, means, side, step, row0, column0):  # type: ignore[no-untyped-def]
    """See `wsisr_kernels.fit_blocks`."""
    height, width, channels = means.shape
    area = side * side
    for row in range(height):
        for column in range(width):
            for channel in range(channels):
                total = 0
                for y in range(row * side, (row + 1) * side):
                    for x in range(column * side, (column + 1) * side):
                        total += pixels[y, x, channel]
                # sums whose quotient by the area rounds to the mean, halves up
                double = 2 * int(means[row, column, channel])
                low = (area * (double - 1) + 1) // 2
                high = (area * (double + 1) + 1) // 2 - 1
                if low <= total <= high:
                    continue
                sign = 1 if total < low else -1
                need = low - total if sign > 0 else total - high
                start = _start(row0 + row, column0 + column)
                _pour(pixels, row * side, column * side, channel, side, need, sign, start, step)
