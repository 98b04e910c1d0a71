"""Measures how far a run is, window by window."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from wsisr.engine.resume import Missing
from wsisr.engine.windows import ReadWindow, find_tissue_windows
from wsisr.plan import Plan
from wsisr.progress import Progress, State

if TYPE_CHECKING:
    from wsisr.engine.executor import Executor
    from wsisr.tissue import TissueMask

__all__ = ["Meter", "Progress", "State"]


class Meter:
    """Counts finished windows.

    Args:
        plan: the windows that come.
        tissue: where the model runs; None is everywhere.
        missing: what of the output is not written yet.
        executor: says how long its devices have computed.
        progress: called after each window; None is nobody.
    """

    def __init__(
        self,
        plan: Plan,
        tissue: TissueMask | None,
        missing: Missing,
        executor: Executor,
        progress: Progress | None,
    ) -> None:
        self._total, self._executor, self._progress = len(plan), executor, progress
        self._tissue_total = int(find_tissue_windows(plan, tissue, missing).sum())
        self._done = self._pixels = 0
        self.tissue_done = 0
        self._started = time.monotonic()

    def add(self, item: ReadWindow, pixels_done: int) -> None:
        """Counts a window and tells of it.

        Args:
            item: the window.
            pixels_done: output pixels that are finished with it, in all.
        """
        self._done += 1
        self.tissue_done += item.tissue is not None
        self._pixels = pixels_done
        if self._progress is not None:
            self._progress(self.state())

    @property
    def busy_share(self) -> float:
        """Gives the share of the time so far that the devices computed, on average."""
        seconds = time.monotonic() - self._started
        return min(1.0, self._executor.busy_seconds / (self._executor.devices * seconds))

    def state(self) -> State:
        """Gives what a `progress` callback is told."""
        return State(
            done=self._done,
            total=self._total,
            tissue_done=self.tissue_done,
            pixels_done=self._pixels,
            busy_share=self.busy_share,
            seconds=time.monotonic() - self._started,
            tissue_total=self._tissue_total,
        )
