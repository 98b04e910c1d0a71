"""From windows to images in order: the protocol, and the executor of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from wsisr.closing import Closing
from wsisr.engine.preparation import Run
from wsisr.engine.runner import Computed, Runner, WindowModel, default_batch, single_sample
from wsisr.engine.stream import Stopwatch
from wsisr.engine.uncertainty import sample_statistics
from wsisr.engine.windows import ReadWindow
from wsisr.models import Upscaler, WindowInput
from wsisr.plan import Plan


class Executor(Protocol):
    """Computes windows somewhere: in this process, on several devices, on a cluster."""

    @property
    def device(self) -> torch.device:
        """Gives the device that images are handed over on, and blended on."""
        ...

    @property
    def batch(self) -> int:
        """Gives how many windows are computed at once, for the length of queues."""
        ...

    @property
    def devices(self) -> int:
        """Gives how many devices compute."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Gives the seconds that the devices have computed so far, all together."""
        ...

    def map(self, windows: Iterable[ReadWindow]) -> Iterator[tuple[ReadWindow, Computed]]:
        """Yields every window with its image, in the order they came."""
        ...

    def stop(self) -> None:
        """Lets a `map` that waits in another thread end soon, without the rest of its windows."""
        ...


OpenExecutor = Callable[[Run, Plan, Stopwatch], AbstractContextManager[Executor]]
"""Starts what computes the windows of a plan, which may be a part of the run's."""


class InProcess(Closing):
    """The executor of one process and one device.

    Memory: the windows of a batch, and up to `4 * batch + 16` that wait for it.

    Args:
        model: computes the images of some windows.
        device: where the model is.
        batch: windows computed at once; None picks by the device.
        clock: counts the time as `model`.
    """

    def __init__(
        self, model: WindowModel, device: torch.device, batch: int | None, clock: Stopwatch
    ) -> None:
        self.device = device if device.type == "cuda" else torch.device("cpu")
        self._runner = Runner(model, device, batch or default_batch(device))
        self._clock = clock

    @property
    def batch(self) -> int:
        """See `Executor`."""
        return self._runner.batch

    @property
    def devices(self) -> int:
        """See `Executor`."""
        return 1

    @property
    def busy_seconds(self) -> float:
        """See `Executor`."""
        return self._runner.busy_seconds

    def map(self, windows: Iterable[ReadWindow]) -> Iterator[tuple[ReadWindow, Computed]]:
        """See `Executor`; glass has its image already and is passed on as it is."""
        waiting: list[ReadWindow] = []
        gathered: list[WindowInput] = []
        for item in windows:
            waiting.append(item)
            if item.tissue is not None:
                gathered.append(item.tissue)
            # glass alone is passed on at once; behind tissue it waits for its turn, within bounds
            full = len(gathered) >= self.batch or len(waiting) >= 4 * self.batch + 16
            if full or not gathered:
                yield from self._computed(waiting, gathered)
                waiting, gathered = [], []
        yield from self._computed(waiting, gathered)

    def _computed(
        self, waiting: list[ReadWindow], gathered: list[WindowInput]
    ) -> Iterator[tuple[ReadWindow, Computed]]:
        images: Iterator[Computed] = iter(())
        if gathered:
            with self._clock("model"):
                images = iter(self._runner(gathered))
        for item in waiting:
            yield item, next(images) if item.glass is None else Computed(item.glass)

    def stop(self) -> None:
        """See `Executor`; it waits for nothing but the windows that it computes."""

    def close(self) -> None:
        """Ends the threads that compute."""
        self._runner.close()


def open_executor(run: Run, plan: Plan, clock: Stopwatch) -> InProcess:
    """Loads the model of a run into this process; an `OpenExecutor`.

    Raises:
        ModelError: the model is missing or broken.
        UsageError: a setting or a device does not do.
    """
    model = run.model.load()
    return InProcess(window_model(run, model), model.device, run.job.batch, clock)


def window_model(run: Run, model: Upscaler) -> WindowModel:
    """Gives one sample a window, or several with their spread where the job asks for them."""
    job = run.job
    if job.uncertainty is None:
        return single_sample(model)
    seed = model.describe()["settings"]["seed"]
    return sample_statistics(model, seed, job.uncertainty, job.output_sample)
