"""Speed of the slide readers against openslide: `python -m bench.speed.reader [DATA_FOLDER]`.

Both sides read the same windows of the same file in one thread, in turn, with fresh caches of the
same size each round; a ratio is openslide's best time over ours. openslide's pixels are taken to
RGB, as ours are. Aligned windows follow the tile grid, two tiles a side; unaligned ones have the
same size, start anywhere and are read in random order.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide

from wsisr.slides import CACHE_BYTES, Slide, open_slide

ROUNDS = 5
WINDOWS = 64
DATA = Path(os.environ.get("WSISR_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
JPEG = {"cmu-1-small-region.svs": 480, "test_a_40x.tif": 512}
"""Slide with JPEG tiles: px of a window, two tiles a side."""
OTHERS = {
    "tcga-cr-7395-01a-01-ts1.svs": 512,
    "test_a_5x.tif": 512,
    "multi_frame_jpeg_camelyon_challenge_image.dcm": 512,
}

Window = tuple[int, int, int]


def measure(data: Path = DATA) -> dict[str, float]:
    """Openslide's time over ours, by name; the two without a slide's name are the worst of all."""
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
    """Windows on the tile grid, row by row."""
    with open_slide(path) as slide:
        corners = [
            (x, y, side)
            for y in range(0, max(1, slide.height - side + 1), side)
            for x in range(0, max(1, slide.width - side + 1), side)
        ]
    return corners[:WINDOWS]


def unaligned(path: Path, side: int) -> list[Window]:
    """Windows anywhere in the slide."""
    rng = np.random.default_rng(0)
    with open_slide(path) as slide:
        high, wide = max(1, slide.height - side), max(1, slide.width - side)
        return [(int(rng.integers(wide)), int(rng.integers(high)), side) for _ in range(WINDOWS)]


def compare(path: Path, windows: list[Window]) -> float:
    """Best time of openslide over the best time of ours."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        with open_slide(path) as slide:
            ours.append(seconds(ours_reading(slide), windows))
        with openslide.OpenSlide(str(path)) as other:
            other.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
            theirs.append(seconds(openslide_reading(other), windows))
    return min(theirs) / min(ours)


def ours_reading(slide: Slide) -> Callable[[int, int, int], object]:
    """Read a window of level 0."""
    return lambda x, y, side: slide.read(0, x, y, side, side)


def openslide_reading(slide: openslide.OpenSlide) -> Callable[[int, int, int], object]:
    """Read a window of level 0 as an RGB array."""
    return lambda x, y, side: np.asarray(slide.read_region((x, y), 0, (side, side)).convert("RGB"))


def seconds(read: Callable[[int, int, int], object], windows: list[Window]) -> float:
    """Time to read all windows."""
    start = time.perf_counter()
    for window in windows:
        read(*window)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="the H&E data package")
    for name, ratio in measure(parser.parse_args().data).items():
        print(f"{name:60s} {ratio:6.2f}")


if __name__ == "__main__":
    main()
