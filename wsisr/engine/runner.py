"""Running the model on windows: in which shapes, in how many threads, and when memory is short.

On a CPU every window is computed alone and in one thread, several windows beside each other:
libraries sum in another order for another batch or thread count, and this way neither the batch
nor the number of cores changes a bit. It is also the faster way, for threads that share one
window wait for each other at every layer. On a GPU windows are computed in batches of one fixed
shape, the last filled up by repetition.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsisr.closing import Closing
from wsisr.errors import ModelError
from wsisr.models import Upscaler, WindowInput

LARGEST_CPU_BATCH = 8
BYTES_A_WINDOW = int(1.5 * 2**30)
"""What a Stable Diffusion-sized model needs for a window of 512 px in bf16."""

log = logging.getLogger(__name__)

WindowModel = Callable[[Sequence[WindowInput]], tuple[Tensor, Tensor | None]]
"""Windows -> images (B, 3, window, window) in [0, 1], and a map (B, 1, ...) of them or None."""


@dataclass(frozen=True)
class Computed:
    """What the model made of a window.

    Attributes:
        pixels: (window, window, 3): float32 in [0, 255], on a CUDA device a tensor there; uint8
            where it was not computed but glass.
        deviation: float32 (window, window, 1), standard deviation in grey levels, or None.
    """

    pixels: NDArray[Any] | Tensor
    deviation: NDArray[np.float32] | None = None


class BusyTime:
    """Seconds that a device computes.

    On a GPU they are those between events that it reaches itself, so nothing waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._seconds = 0.0
        self._under_way: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Counts what the block computes."""
        if self._on_gpu:
            stream = torch.cuda.current_stream(self._device)
            first, last = (_new_event() for _ in range(2))
            first.record(stream)
            try:
                yield
            finally:
                last.record(stream)
                self._under_way.append((first, last))
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Gives the seconds of what is finished; asked for by one thread at a time."""
        while self._under_way and self._under_way[0][1].query():  # type: ignore[no-untyped-call]
            first, last = self._under_way.popleft()
            self._seconds += first.elapsed_time(last) / 1000
        return self._seconds


def _new_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Runner(Closing):
    """Computes windows, at most `batch` at once; that number is halved when memory runs out.

    Unlike accelerate's `find_executable_batch_size`, which begins again with everything, it keeps
    the windows that are computed already.

    On a CPU the pixels stay the same then. On a GPU another batch can round differently in the
    last bit, which the warning says.

    Memory: that of `batch` windows in the model.

    Args:
        model: computes the images of some windows.
        device: where it does.
        batch: windows computed at once, 1 or more.
    """

    def __init__(self, model: WindowModel, device: torch.device, batch: int) -> None:
        self._model, self._device = model, device
        self.batch = batch
        self._busy = BusyTime(device)
        self._threads: ThreadPoolExecutor | None = None
        if device.type == "cpu":
            self._threads = ThreadPoolExecutor(
                min(batch, torch.get_num_threads()), "wsisr-window", torch.set_num_threads, (1,)
            )

    def __call__(self, windows: Sequence[WindowInput]) -> list[Computed]:
        """Computes windows, in their order.

        Raises:
            ModelError: a single window needs more memory than there is.
        """
        done: list[Computed] = []
        while len(done) < len(windows):
            part = windows[len(done) : len(done) + self.batch]
            try:
                with self._busy():
                    done += self._compute(part)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve()
        return done

    @property
    def busy_seconds(self) -> float:
        """Gives the seconds that the device has computed."""
        return self._busy.seconds

    def _compute(self, windows: Sequence[WindowInput]) -> list[Computed]:
        if self._threads is not None:
            return list(self._threads.map(lambda window: self._batch([window])[0], windows))
        filled = [*windows, *[windows[-1]] * (self.batch - len(windows))]
        return self._batch(filled)[: len(windows)]

    def _batch(self, windows: Sequence[WindowInput]) -> list[Computed]:
        images, deviations = self._model(windows)
        pixels = to_pixels(images)
        if deviations is None:
            return [Computed(image) for image in pixels]
        maps = (deviations * 255).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [Computed(image, deviation) for image, deviation in zip(pixels, maps, strict=True)]

    def _halve(self) -> None:
        if self.batch == 1:
            raise ModelError("not enough memory for a single window; give a smaller <window>")
        self.batch //= 2
        same = "the pixels stay the same"
        if self._threads is None:
            same = "another batch can round differently in the last bit"
        log.warning("out of memory: going on with a batch of %d; %s", self.batch, same)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Ends the threads."""
        if self._threads is not None:
            self._threads.shutdown()


def single_sample(model: Upscaler) -> WindowModel:
    """Gives the model's image of each window, and no map."""
    return lambda windows: (model(windows), None)


def to_pixels(images: Tensor) -> NDArray[np.float32] | Tensor:
    """Turns images into pixels as they are blended.

    Args:
        images: (B, 3, H, W) in [0, 1] on any device.

    Returns:
        (B, H, W, 3) float32 in [0, 255]: on a CUDA device, where blending runs too, a tensor;
        else an array.
    """
    levels = (images.clamp(0, 1) * 255).permute(0, 2, 3, 1).contiguous()
    if levels.device.type == "cuda":
        return levels
    pixels: NDArray[np.float32] = levels.cpu().numpy()
    return pixels


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error of the model says that memory ran out, on a GPU or a CPU."""
    known: tuple[Any, ...] = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, known) or "can't allocate memory" in str(error)


def default_batch(device: torch.device) -> int:
    """Chooses how many windows are computed at once.

    On a CPU that is one a thread; on a GPU what a quarter of its memory holds.
    """
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        return int(max(1, min(32, memory // 4 // BYTES_A_WINDOW)))
    if device.type == "cpu":
        return min(torch.get_num_threads(), LARGEST_CPU_BATCH)
    return 1
