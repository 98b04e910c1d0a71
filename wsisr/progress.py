"""How far a run is: what `progress` callbacks are told, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GLASS_COST = 0.05
"""What a window of glass takes of the time of one with tissue: resizing alone, no model."""


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        done: windows that are finished; tiles where no model runs.
        total: windows or tiles in all.
        tissue_done: windows of them that the model was run on.
        pixels_done: output pixels that are finished.
        busy_share: share of the time that the devices were computing, 0 to 1.
        seconds: since the first window was asked for.
        tissue_total: windows that the model is to be run on.
    """

    done: int
    total: int
    tissue_done: int = 0
    pixels_done: int = 0
    busy_share: float = 0.0
    seconds: float = 0.0
    tissue_total: int = 0

    @property
    def mpix_per_s(self) -> float:
        """Gives the output megapixels a second so far."""
        return self.pixels_done / 1e6 / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_to_go(self) -> float | None:
        """Estimates how long the rest takes; None as long as nothing tells.

        Glass is cheap and often comes first, so it is windows with tissue that count.
        """
        done = cost_of_windows(self.tissue_done, self.done - self.tissue_done)
        rest = cost_of_windows(self.tissue_total, self.total - self.tissue_total) - done
        is_known = self.tissue_done > 0 or (self.tissue_total == 0 and self.done > 0)
        return self.seconds * max(0.0, rest) / done if is_known else None


Progress = Callable[[State], None]
"""Called after each window, or after each tile where no model runs."""


def cost_of_windows(tissue: float, glass: float) -> float:
    """Weighs windows by the time they take; a window with tissue counts 1."""
    return tissue + GLASS_COST * glass


def as_duration(seconds: float) -> str:
    """Writes a duration as people say it: 40 s, 12 min, 3 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def as_size(count: float) -> str:
    """Writes bytes as people read them: 3.8 MB, 1.2 GB."""
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"
