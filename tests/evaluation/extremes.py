"""Measures tiles that no scan shows, in a process of its own: a kernel that fails ends it.

`python -m tests.evaluation.extremes [SIDE...]` prints one JSON object: what was measured of tiles
of these sides, or of all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import UsageError
from wsisr.evaluation import measure
from wsisr.evaluation.measures import METRICS
from wsisr.evaluation.weights import why_missing

Image = NDArray[np.uint8]
NAMES = [m.name for m in METRICS if not m.weights or why_missing(*m.weights) is None]
SIDES = (1, 2, 7, 10, 11, 16, 31, 32, 33, 97, 192)
MPPS = (0.05, 0.25, 2.0)


def flat(side: int, value: int) -> Image:
    return np.full((side, side, 3), value, np.uint8)


def tissue(side: int) -> Image:
    rng = np.random.default_rng(side)
    return rng.integers(90, 240, (side, side, 3), np.uint8)


def pairs(side: int) -> Iterator[tuple[str, Image, Image]]:
    """Yields name, result and scan."""
    scan = tissue(side)
    stripes = flat(side, 0)
    stripes[:, ::2] = 255
    yield "dim", (scan * 0.45).astype(np.uint8), scan
    yield "black", flat(side, 0), scan
    yield "white", flat(side, 255), scan
    yield "black scan", scan, flat(side, 0)
    yield "flat pair", flat(side, 100), flat(side, 100)
    yield "all stained", np.tile(np.uint8([60, 20, 120]), (side, side, 1)), scan
    yield "stripes", stripes, 255 - stripes


def tall(width: int, height: int) -> Image:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def measured(name: str, sr: Image, hr: Image, mpp: float) -> str | float:
    try:
        return measure(sr, hr, None, [name], mpp=mpp)[name]
    except UsageError:
        return "refused"


def main(sides: tuple[int, ...]) -> None:
    found = {}
    for side in sides or SIDES:
        for pair, sr, hr in pairs(side):
            for name in (n for n in NAMES if n != "lr_rmse"):
                found[f"{pair} {side} {name}"] = str(measured(name, sr, hr, 0.25))
    for mpp in MPPS:
        for name in (n for n in NAMES if "nuclei" in n or n.startswith("l1_")):
            found[f"mpp {mpp} {name}"] = str(measured(name, tissue(64), flat(64, 0), mpp))
    for width, height in ((1, 300), (300, 1), (11, 200)):
        image = tall(width, height)
        for name in (n for n in NAMES if n != "lr_rmse"):
            found[f"{width}x{height} {name}"] = str(measured(name, image, 255 - image, 0.25))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])))
