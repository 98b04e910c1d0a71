"""Shared memory between the process that reads and writes and those that compute.

A slot holds one window: the low-resolution bytes that go to a worker and the image that comes
back. Pixels are never pickled; messages name slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory

import numpy as np
from numpy.typing import NDArray

from wsisr.plan import Plan

CUBIC_MARGIN = 8
"""More low-resolution pixels than lie under a window: the taps of bicubic interpolation."""
ALIGNMENT = 64


@dataclass(frozen=True)
class SlotLayout:
    """Where in a slot what lies.

    Attributes:
        window: side of a window in output px.
        input_bytes: room for the low-resolution pixels.
        image_bytes: room for the image, float32 RGB.
        map_bytes: room for the map of deviations, float32.
    """

    window: int
    input_bytes: int
    image_bytes: int
    map_bytes: int

    @classmethod
    def of_plan(cls, plan: Plan) -> SlotLayout:
        """Lays out the slots for the windows of a plan."""
        side = math.ceil(plan.window / plan.scale) + CUBIC_MARGIN
        pixels = plan.window**2
        return cls(plan.window, _aligned(3 * side**2), 12 * pixels, 4 * pixels)

    @property
    def size(self) -> int:
        """Gives the bytes of a slot."""
        return self.input_bytes + self.image_bytes + self.map_bytes


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Slots:
    """Slots in one block of shared memory.

    Memory: `count` slots, for windows of 512 px 4.2 MB each.

    Args:
        layout: of each slot.
        count: how many.
        name: of an existing block to attach to; None makes a new one, which its maker removes.
    """

    def __init__(self, layout: SlotLayout, count: int, name: str | None = None) -> None:
        self.layout, self.count = layout, count
        self._is_owner = name is None
        size = layout.size * count
        self._memory = SharedMemory(name, create=name is None, size=size)

    @property
    def name(self) -> str:
        """Gives the name that other processes attach by."""
        return self._memory.name

    def input(self, slot: int, rows: int, columns: int) -> NDArray[np.uint8]:
        """Gives the low-resolution pixels of a slot, uint8 (rows, columns, 3)."""
        start = slot * self.layout.size
        return np.ndarray((rows, columns, 3), np.uint8, self._memory.buf, start)

    def image(self, slot: int) -> NDArray[np.float32]:
        """Gives the image of a slot, float32 (window, window, 3)."""
        start = slot * self.layout.size + self.layout.input_bytes
        side = self.layout.window
        return np.ndarray((side, side, 3), np.float32, self._memory.buf, start)

    def deviation(self, slot: int) -> NDArray[np.float32]:
        """Gives the map of a slot, float32 (window, window, 1)."""
        start = slot * self.layout.size + self.layout.input_bytes + self.layout.image_bytes
        side = self.layout.window
        return np.ndarray((side, side, 1), np.float32, self._memory.buf, start)

    def close(self) -> None:
        """Lets go of the memory; its maker removes it."""
        self._memory.close()
        if self._is_owner:
            self._memory.unlink()
