"""Measures the speed of the kernels beside the plain way of doing the same.

    python -m bench.speed kernels --json kernels.json

All ratios come from one run on one thread, both sides in turn, medians of the rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from bench.command import add_json, make_parser, report
from bench.speed.clock import median_seconds
from wsisr.engine import CellBlender
from wsisr.plan import Plan, Rect
from wsisr.resize import halve
from wsisr_kernels import philox_normal_batch

WINDOW, OVERLAP = 512, 64
COLUMNS, ROWS = 12, 3


def measure(rounds: int) -> dict[str, float]:
    """Returns ratios (over 1 is faster than the plain way) and throughputs in Mpx/s by name."""
    stride = WINDOW - OVERLAP
    width, height = stride * (COLUMNS - 1) + WINDOW, stride * (ROWS - 1) + WINDOW
    plan = Plan(width, height, 1.0, Rect(0, 0, width, height), WINDOW, OVERLAP)
    rng = np.random.default_rng(0)
    windows = rng.random((COLUMNS, WINDOW, WINDOW, 3), dtype=np.float32) * 255
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
    blended = COLUMNS * ROWS * WINDOW * WINDOW / 1e6
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    Raises:
        OutputError: a file cannot be written.
    """
    parser = make_parser("bench.speed kernels", __doc__)
    parser.add_argument(
        "--rounds", type=int, default=15, help="how often all take turns; default: 15"
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    figures = {name: round(value, 3) for name, value in measure(options.rounds).items()}
    report(figures, options.json)
    return 0
