"""Measures the speed of the slide readers beside openslide.

    python -m bench.speed reader --data DATA --json reader.json

Both sides read the same windows of the same file in one thread, in turn, with fresh caches of the
same size each round; a ratio is openslide's best time over ours. openslide's pixels are taken to
RGB, as ours are. Aligned windows follow the tile grid, two tiles a side; unaligned ones have the
same size, start anywhere and are read in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import openslide

from bench.command import DATA, add_data, add_json, make_parser, report
from bench.speed.clock import seconds
from wsisr.slides import CACHE_BYTES, Slide, open_slide

ROUNDS = 5
WINDOWS = 64
JPEG = {"cmu-1-small-region.svs": 480, "test_a_40x.tif": 512}
"""{slide with JPEG tiles: px of a window, two tiles a side}."""
OTHERS = {
    "tcga-cr-7395-01a-01-ts1.svs": 512,
    "test_a_5x.tif": 512,
    "multi_frame_jpeg_camelyon_challenge_image.dcm": 512,
}

Window = tuple[int, int, int]
"""Left, top and side of a window in px of level 0."""


def measure(data: Path = DATA) -> dict[str, float]:
    """Returns openslide's time over ours for each slide, and the worst of each kind.

    Args:
        data: folder of the H&E data package.

    Raises:
        SlideError: a slide cannot be read.
    """
    slides = data / "slides"
    figures = {}
    for name, side in JPEG.items():
        figures[f"{name} aligned"] = compare(slides / name, aligned(slides / name, side))
        figures[f"{name} unaligned"] = compare(slides / name, unaligned(slides / name, side))
    for name, side in OTHERS.items():
        figures[f"{name} aligned"] = compare(slides / name, aligned(slides / name, side))
    return {
        "reader_vs_openslide_aligned": min(figures[f"{name} aligned"] for name in JPEG),
        "reader_vs_openslide_unaligned": min(figures[f"{name} unaligned"] for name in JPEG),
        "reader_vs_openslide_others": min(figures[f"{name} aligned"] for name in OTHERS),
        **figures,
    }


def aligned(path: Path, side: int) -> list[Window]:
    """Lists windows on the tile grid, row by row."""
    with open_slide(path) as slide:
        corners = [
            (x, y, side)
            for y in range(0, max(1, slide.height - side + 1), side)
            for x in range(0, max(1, slide.width - side + 1), side)
        ]
    return corners[:WINDOWS]


def unaligned(path: Path, side: int) -> list[Window]:
    """Lists windows that lie anywhere in the slide."""
    rng = np.random.default_rng(0)
    with open_slide(path) as slide:
        high, wide = max(1, slide.height - side), max(1, slide.width - side)
        return [(int(rng.integers(wide)), int(rng.integers(high)), side) for _ in range(WINDOWS)]


def compare(path: Path, windows: list[Window]) -> float:
    """Returns the best time of openslide over the best time of ours."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        with open_slide(path) as slide:
            ours.append(seconds(partial(read_all, ours_reading(slide), windows)))
        with openslide.OpenSlide(str(path)) as other:
            other.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            theirs.append(seconds(partial(read_all, openslide_reading(other), windows)))
    return min(theirs) / min(ours)


def ours_reading(slide: Slide) -> Callable[[int, int, int], object]:
    """Returns a function that reads a window of level 0."""
    return lambda x, y, side: slide.read(0, x, y, side, side)


def openslide_reading(slide: openslide.OpenSlide) -> Callable[[int, int, int], object]:
    """Returns a function that reads a window of level 0 as an RGB array."""
    return lambda x, y, side: np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))


def read_all(read: Callable[[int, int, int], object], windows: list[Window]) -> None:
    """Reads all windows."""
    for window in windows:
        read(*window)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    Raises:
        WsisrError: a slide cannot be read, or a file cannot be written.
    """
    parser = make_parser("bench.speed reader", __doc__)
    add_data(parser)
    add_json(parser)
    options = parser.parse_args(arguments)
    report(measure(options.data), options.json)
    return 0
