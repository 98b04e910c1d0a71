"""Shared memory between the process that reads and writes and those that compute.

A slot holds one window: the low-resolution bytes that go to a worker and the image that comes
back. Pixels are never pickled; messages name slots. The memory has no name in the file system: it
is gone with the last process that has it, however that ends, and a small `/dev/shm`, as containers
have it, does not limit it.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import OptionError
from wsisr.plan import Plan
from wsisr.scaleout.devices import usable_memory

CUBIC_MARGIN = 8
"""More low-resolution pixels than lie under a window: the taps of bicubic interpolation."""
ALIGNMENT = 64
NAME = "wsisr-slots"


@dataclass(frozen=True)
class SlotLayout:
    """Where in a slot what lies.

    Images are float32: in float16 a value above 128 is off by up to 1/16 of a grey level, so
    pixels would differ from those of one process.

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
    def of_plan(cls, plan: Plan, *, has_maps: bool = True) -> SlotLayout:
        """Lays out the slots for the windows of a plan.

        Args:
            plan: the windows.
            has_maps: whether maps of deviations come back as well.
        """
        side = math.ceil(plan.window / plan.scale) + CUBIC_MARGIN
        pixels = plan.window**2
        return cls(plan.window, _aligned(3 * side**2), 12 * pixels, 4 * pixels * has_maps)

    @property
    def size(self) -> int:
        """Gives the bytes of a slot."""
        return _aligned(self.input_bytes + self.image_bytes + self.map_bytes)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Slots:
    """Slots in one block of shared memory, all of which is reserved at once.

    It can be pickled while a process is started, which then shares the memory. The memory is let
    go when the object and all arrays on it are.

    Memory: `count` slots, for windows of 512 px 3.2 MB each, or 4.2 MB with maps.

    Args:
        layout: of each slot.
        count: how many.

    Raises:
        OptionError: there is not that much memory.
    """

    def __init__(self, layout: SlotLayout, count: int) -> None:
        size = layout.size * count
        handle = _new_block(size)
        self._attach(layout, count, handle)

    def _attach(self, layout: SlotLayout, count: int, handle: int | str) -> None:
        self.layout, self.count, self._handle = layout, count, handle
        size = layout.size * count
        # a mapping of no file is one of the page file on Windows, where its name finds it again
        options: dict[str, Any] = {"tagname": handle} if isinstance(handle, str) else {}
        self._memory = mmap.mmap(-1 if options else int(handle), size, **options)

    def __reduce__(self) -> tuple[Callable[..., Slots], tuple[Any, ...]]:
        handle = self._handle
        if isinstance(handle, int):
            return _attach_duplicate, (self.layout, self.count, reduction.DupFd(handle))
        return _attach, (self.layout, self.count, handle)

    def input(self, slot: int, rows: int, columns: int) -> NDArray[np.uint8]:
        """Gives the low-resolution pixels of a slot, uint8 (rows, columns, 3)."""
        start = slot * self.layout.size
        return np.ndarray((rows, columns, 3), np.uint8, self._memory, start)

    def image(self, slot: int) -> NDArray[np.float32]:
        """Gives the image of a slot, float32 (window, window, 3)."""
        start = slot * self.layout.size + self.layout.input_bytes
        side = self.layout.window
        return np.ndarray((side, side, 3), np.float32, self._memory, start)

    def deviation(self, slot: int) -> NDArray[np.float32]:
        """Gives the map of a slot, float32 (window, window, 1)."""
        start = slot * self.layout.size + self.layout.input_bytes + self.layout.image_bytes
        side = self.layout.window
        return np.ndarray((side, side, 1), np.float32, self._memory, start)

    def close(self) -> None:
        """Lets go of the memory, which goes with the last array on it."""
        self.__dict__.pop("_memory", None)
        if isinstance(self._handle, int) and self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _new_block(size: int) -> int | str:
    if size > usable_memory():
        raise _too_large(size, "that is more than is free")
    if sys.platform == "win32":
        return f"{NAME}-{uuid.uuid4()}"
    if sys.platform == "linux":
        handle = os.memfd_create(NAME)
    else:
        with tempfile.TemporaryFile(prefix=NAME) as file:
            handle = os.dup(file.fileno())
    try:
        os.ftruncate(handle, size)
        if hasattr(os, "posix_fallocate"):
            # what is not there is known now; at the first touch it would be a SIGBUS
            os.posix_fallocate(handle, 0, size)
    except OSError as error:
        os.close(handle)
        raise _too_large(size, error.strerror or "not there") from error
    return handle


def _too_large(size: int, reason: str) -> OptionError:
    return OptionError(
        "batch",
        None,
        f"the windows under way need {size / 1e9:.1f} GB of shared memory ({reason}); give a "
        "smaller <batch> or <window>, or fewer <workers>",
    )


def _attach(layout: SlotLayout, count: int, handle: int | str) -> Slots:
    slots = Slots.__new__(Slots)
    slots._attach(layout, count, handle)
    return slots


def _attach_duplicate(layout: SlotLayout, count: int, duplicate: Any) -> Slots:
    return _attach(layout, count, duplicate.detach())
