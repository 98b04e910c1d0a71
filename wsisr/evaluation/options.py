"""Settings that all kinds of evaluation share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from wsisr.evaluation.nuclei import ClassicalSegmenter, Segmenter


def available_cores() -> int:
    """Tells how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Options:
    """How an evaluation is run.

    Attributes:
        metrics: names or groups of measures.
        tile_size: side of the tiles that slides are judged in, px of SR.
        count: how many tissue tiles are drawn; None for all.
        seed: seed of the draw of tiles and of the intervals.
        workers: how many tiles are measured at once, each on one core.
        out: folder of the report; None for no report.
        force: whether full-reference measures are given whatever registration leaves over.
        segmenter: what finds nuclei.
        show_progress: whether a bar on stderr counts the tiles.
    """

    metrics: tuple[str, ...] = ("offline",)
    tile_size: int = 512
    count: int | None = 200
    seed: int = 0
    workers: int = field(default_factory=available_cores)
    out: Path | None = None
    force: bool = False
    segmenter: Segmenter = field(default_factory=ClassicalSegmenter)
    show_progress: bool = False
