"""Speed of the kernels against the plain way: `python -m bench.speed.kernels [--json FILE]`.

All ratios come from one run on one thread, both sides in turn, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from wsisr.engine import CellBlender
from wsisr.plan import Plan, Rect
from wsisr.resize import halve
from wsisr_kernels import philox_normal_batch

TILE, OVERLAP = 512, 64
COLUMNS, ROWS = 12, 3


def median_seconds(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median wall time of each task; the tasks take turns, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def measure(rounds: int) -> dict[str, float]:
    """Flat table of ratios (> 1 is faster than the plain way) and throughputs in Mpx/s."""
    stride = TILE - OVERLAP
    width, height = stride * (COLUMNS - 1) + TILE, stride * (ROWS - 1) + TILE
    plan = Plan(width, height, 1.0, Rect(0, 0, width, height), TILE, OVERLAP)
    rng = np.random.default_rng(0)
    windows = rng.random((COLUMNS, TILE, TILE, 3), dtype=np.float32) * 255
    copy = np.empty_like(windows)
    image = rng.integers(0, 256, (2048, 2048, 3), dtype=np.uint8)

    def blend() -> None:
        blender = CellBlender(plan)
        for window in plan.windows():
            blender.push(window.row, window.column, windows[window.column])

    def memcpy() -> None:
        for _ in range(ROWS):
            for source, target in zip(windows, copy, strict=True):
                np.copyto(target, source)

    def box_numpy() -> object:
        total = image.reshape(1024, 2, 1024, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
        return ((total + 2) >> 2).astype(np.uint8)

    seconds = median_seconds(
        {
            "blend": blend,
            "memcpy": memcpy,
            "box": lambda: halve(image),
            "box_numpy": box_numpy,
            "philox": lambda: philox_normal_batch(0, 0, [(0, 0)] * 16, 64, 64, 16),
            "randn": lambda: torch.randn(16, 16, 64, 64),
        },
        rounds,
    )
    blended = COLUMNS * ROWS * TILE * TILE / 1e6
    values = 16 * 16 * 64 * 64 / 1e6
    return {
        "blend_vs_memcpy": seconds["memcpy"] / seconds["blend"],
        "blend_mpix_per_s": blended / seconds["blend"],
        "memcpy_mpix_per_s": blended / seconds["memcpy"],
        "box_vs_numpy": seconds["box_numpy"] / seconds["box"],
        "box_mpix_per_s": image.shape[0] * image.shape[1] / 1e6 / seconds["box"],
        "philox_vs_randn": seconds["randn"] / seconds["philox"],
        "philox_mvalues_per_s": values / seconds["philox"],
    }


def main() -> None:
    """Measure, print a table and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = {name: round(value, 3) for name, value in measure(options.rounds).items()}
    for name, value in table.items():
        print(f"{name:24}{value:12.3f}")
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
