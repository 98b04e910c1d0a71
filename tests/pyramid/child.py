"""Writes a pyramid slowly enough to be killed: python -m tests.pyramid.child OUT VERSION SEED."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from tests.pyramid.support import all_tiles, feed, picture
from wsisr.pyramid import PyramidSpec, open_writer

WIDTH, HEIGHT, TILE = 1170, 1030, 64
FINGERPRINT = "input, model and settings"


def spec(version: str) -> PyramidSpec:
    return PyramidSpec(WIDTH, HEIGHT, 0.25, 40, tile=TILE, zarr_version=version)


def main(out: str, version: str, seed: str) -> None:
    rng = np.random.default_rng(int(seed))
    pixels = picture(WIDTH, HEIGHT)
    pixels[:200, :400] = 255
    wanted = spec(version)
    with open_writer(Path(out), wanted, threads=2, fingerprint=FINGERPRINT) as writer:
        order = all_tiles(wanted)
        if rng.random() < 0.5:
            order = [order[i] for i in rng.permutation(len(order))]
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for row, col in order:
            if writer.done(row, col):
                continue
            if row < 3 and col < 6:
                writer.write_blank(row, col)
            else:
                feed(writer, pixels, [(row, col)])
            time.sleep(float(rng.exponential(0.0005)))
        writer.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
