"""Measures speed and memory of the pyramid writer beside pyvips.

    python -m bench.speed writer --json writer.json

Each measurement runs in a process of its own. Speeds are ratios of the best of nine times, all
sides taken in turn on one CPU, each into a new file. The writer keeps its journal, and its time
always holds the flush of the output to the disk. It is compared with

- pyvips' tiffsave followed by the same flush (`writer_vs_pyvips`), and with tiffsave alone, which
  leaves its file to the page cache (`writer_flushed_vs_pyvips_unflushed`);
- nothing but encoding the same tiles of all levels, in memory (`writer_vs_encode`).

Memory is the high-water mark of a process that writes tiles in Z-order.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.command import add_json, make_parser, report, run_module
from bench.speed.clock import peak_rss_mb, seconds
from wsisr.files import sync_folder
from wsisr.pyramid import PyramidSpec, open_writer, tiff_codec, z_order
from wsisr.resize import halve

Image = NDArray[np.uint8]
TILE = 512
SPEED_SIZE = (10240, 8192)
# from 90 on tiffsave writes 4:4:4, and has no option against it
QUALITY = 89
ROUNDS = 9
SIZES = {"100k": (100_000, 80_000), "low": (20_000, 10_000), "high": (20_000, 40_000)}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "VIPS_CONCURRENCY": "1"}


def measure() -> dict[str, float]:
    """Returns all figures; ratios above one are in the writer's favour, memory is in MB (2^20)."""
    with tempfile.TemporaryDirectory(prefix="wsisr-bench-", dir=Path.cwd()) as folder:
        figures = _in_process("speed", folder)
        for size in SIZES:
            figures |= _in_process(size, folder)
    return {
        "writer_vs_pyvips": figures["vs_pyvips"],
        "writer_flushed_vs_pyvips_unflushed": figures["vs_pyvips_unflushed"],
        "writer_vs_encode": figures["vs_encode"],
        "writer_mpix_per_s": figures["mpix_per_s"],
        "writer_rss_mb_100k": figures["100k_rss_mb"],
        "writer_temporary_over_output_100k": figures["100k_temporary"],
        "writer_seconds_100k": figures["100k_seconds"],
        "writer_rss_ratio_4x_height": figures["high_rss_mb"] / figures["low_rss_mb"],
    }


def tissue() -> Image:
    """Returns real tissue (scikit-image's immunohistochemistry picture), (512, 512, 3)."""
    from skimage import data

    return np.ascontiguousarray(data.immunohistochemistry(), dtype=np.uint8)


def _speed(folder: Path) -> dict[str, float]:
    """Measures the writer, pyvips and the encoder in turn on one CPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    width, height = SPEED_SIZE
    picture = np.tile(tissue(), (height // TILE, width // TILE, 1))
    spec = PyramidSpec(width, height, 0.25, 40, tile=TILE, quality=QUALITY)
    tiles = list(_all_tiles(picture, spec))
    codec = tiff_codec(spec)
    ours, theirs = folder / "w.ome.tif", folder / "v.tif"
    save = _pyvips_saving(picture, theirs)

    def encode() -> None:
        for tile in tiles:
            codec.encode(tile)

    times = []
    for _ in range(ROUNDS):
        ours.unlink(missing_ok=True)
        theirs.unlink(missing_ok=True)
        saved = seconds(save)
        flushed = saved + seconds(partial(_flush, theirs))
        times.append((seconds(partial(_write, ours, spec, tiles)), saved, flushed, seconds(encode)))
    written, saved, flushed, encoded = (min(side) for side in zip(*times, strict=True))
    return {
        "vs_pyvips": flushed / written,
        "vs_pyvips_unflushed": saved / written,
        "vs_encode": encoded / written,
        "mpix_per_s": width * height / 1e6 / written,
    }


def _write(path: Path, spec: PyramidSpec, tiles: Sequence[Image]) -> None:
    """Writes a pyramid from the tiles of its level 0, which come first."""
    rows, cols = spec.grid(0)
    with open_writer(path, spec, fingerprint="bench") as writer:
        for row, col in z_order(rows, cols):
            writer.write_tile(row, col, tiles[row * cols + col])
        writer.finish()


def _pyvips_saving(picture: Image, path: Path) -> Callable[[], None]:
    """Returns a function that writes the same pyramid with pyvips."""
    import pyvips

    height, width = picture.shape[:2]
    source = pyvips.Image.new_from_memory(picture.data, width, height, 3, "uchar")
    source = source.copy(interpretation="srgb")

    def save() -> None:
        source.tiffsave(
            str(path),
            tile=True,
            tile_width=TILE,
            tile_height=TILE,
            pyramid=True,
            subifd=True,
            bigtiff=True,
            compression="jpeg",
            Q=QUALITY,
            region_shrink="mean",
            depth="onetile",
        )

    return save


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fdatasync(file.fileno())
    sync_folder(path.parent)


def _tile(picture: Image, row: int, col: int) -> Image:
    return picture[row * TILE : (row + 1) * TILE, col * TILE : (col + 1) * TILE]


def _all_tiles(picture: Image, spec: PyramidSpec) -> Iterator[Image]:
    """Yields the tiles of every level, ready to encode; those at far edges grown to full size."""
    for level in range(len(spec.levels)):
        rows, cols = spec.grid(level)
        for row in range(rows):
            for col in range(cols):
                tile = _tile(picture, row, col)
                grow = ((0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0))
                yield np.ascontiguousarray(np.pad(tile, grow, mode="edge"))
        picture = halve(picture)


def _memory(folder: Path, size: str) -> dict[str, float]:
    width, height = SIZES[size]
    base = tissue()
    pool = [np.roll(base, (37 * i, 53 * i), axis=(0, 1)) for i in range(8)]
    spec = PyramidSpec(width, height, 0.25, 40, tile=TILE)
    out = folder / f"{size}.ome.tif"
    beside = [out.with_name(out.name + end) for end in (".pieces", ".journal")]
    temporary = 0
    start = time.perf_counter()
    with open_writer(out, spec, threads=2, fingerprint="bench") as writer:
        for number, (row, col) in enumerate(z_order(*spec.grid(0))):
            rows, cols = spec.tile_shape(0, row, col)
            writer.write_tile(row, col, pool[number % len(pool)][:rows, :cols])
            if number % 256 == 0:
                temporary = max(temporary, *(path.stat().st_size for path in beside))
        temporary = max(temporary, *(path.stat().st_size for path in beside))
        writer.finish()
    spent = time.perf_counter() - start
    written = out.stat().st_size
    out.unlink()
    return {
        f"{size}_rss_mb": peak_rss_mb(),
        f"{size}_temporary": temporary / written,
        f"{size}_seconds": spent,
    }


def _in_process(part: str, folder: str) -> dict[str, float]:
    words = ("writer", "--part", part, "--folder", folder)
    figures: dict[str, float] = run_module("bench.speed", *words, environment=ONE_THREAD)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, or one part of it for the process that started this one.

    Raises:
        WsisrError: a process failed, or a file cannot be written.
    """
    parser = make_parser("bench.speed writer", __doc__)
    add_json(parser)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part is None:
        report(measure(), options.json)
    elif options.part == "speed":
        print(json.dumps(_speed(options.folder)))
    else:
        print(json.dumps(_memory(options.folder, options.part)))
    return 0
