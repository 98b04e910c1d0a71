"""What catches what: known faults put into real tiles, and the measures that notice them.

    python -m bench.quality.sensitivity --tiles ../shared/data/tiles/test --limit 20 --json s.json

Every fault is made from the real tile itself, so the right answer is known. A measure notices a
fault when its mean crosses the alarm limit below; the limits lie outside what the real scan, judged
against itself, reaches. The exit code is 1 when a fault escapes every measure.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bench.quality.run import list_tiles
from bench.quality.table import cell, markdown_table
from wsisr.errors import WsisrError
from wsisr.evaluation.measures import (
    RGB_FROM_HED,
    Image,
    Measurement,
    Sample,
    Scan,
    area_downsample,
    available_metrics,
    bicubic_upsample,
    hed,
    measure_tile,
    metric_conventions,
    summarize,
)
from wsisr.evaluation.nuclei import ClassicalSegmenter, Labels
from wsisr.evaluation.pairing import read_image
from wsisr.evaluation.report import to_json

SCALE = 4
SHARE = 0.1
"""Of the nuclei, erased or invented."""
ALARMS: dict[str, Callable[[float], bool]] = {
    "psnr": lambda v: v < 20,
    "ssim": lambda v: v < 0.75,
    "nuclei_precision": lambda v: v < 0.95,
    "nuclei_recall": lambda v: v < 0.93,
    "nuclei_pq": lambda v: v < 0.85,
    "hed_shift": lambda v: v > 0.012,
    "hf_db": lambda v: abs(v) > 2,
    "comb_db": lambda v: v > 4,
    "mesh_share": lambda v: v > 0.01,
    "lr_rmse": lambda v: v > 5,
}
LIMITS = (
    "PSNR < 20, SSIM < 0.75, precision < 0.95, recall < 0.93, PQ < 0.85, stain shift > 0.012, "
    "|high frequencies| > 2 dB, comb > 4 dB, meshes > 0.01, LR RMSE > 5"
)


@dataclass(frozen=True)
class Tile:
    """A real tile, its nuclei, another slide's tile, and random numbers of its own."""

    hr: Image
    nuclei: Labels
    other: Image
    random: np.random.Generator


def unharmed(tile: Tile) -> Image:
    """Return the real tile: no measure may raise an alarm."""
    return tile.hr


def bicubic(tile: Tile) -> Image:
    """Return the tile enlarged from its x4 average: all fine detail missing."""
    return bicubic_upsample(area_downsample(tile.hr, SCALE), SCALE)


def shifted(tile: Tile) -> Image:
    """Return the tile moved by one pixel to the right and down."""
    return np.pad(tile.hr, ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1].copy()


def erased(tile: Tile) -> Image:
    """Return the tile with a tenth of its nuclei painted over from their surroundings."""
    chosen = _choose(tile)
    mask = np.isin(tile.nuclei, chosen).astype(np.uint8)
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    # neighbouring nuclei must not bleed into the gap, or they seem to grow instead
    others = ((tile.nuclei > 0) & (mask == 0)).astype(np.uint8)
    stroma = tile.hr.copy()
    stroma[(mask | others) > 0] = 0
    known = ((mask | others) == 0).astype(np.float32)
    weight = cv2.GaussianBlur(known, (0, 0), 12)[..., None]
    fill = cv2.GaussianBlur(stroma.astype(np.float32), (0, 0), 12) / np.maximum(weight, 1e-3)
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 1.0)[..., None]
    return _to_uint8(tile.hr * (1 - soft) + fill * soft)


def invented(tile: Tile) -> Image:
    """Return the tile with copies of a tenth of its nuclei where there were none."""
    out = tile.hr.astype(np.float32)
    occupied = cv2.dilate((tile.nuclei > 0).astype(np.uint8), np.ones((7, 7), np.uint8))
    rows, columns = tile.nuclei.shape
    for label in _choose(tile):
        ys, xs = np.nonzero(tile.nuclei == label)
        top, left = max(0, ys.min() - 4), max(0, xs.min() - 4)
        bottom, right = min(rows, ys.max() + 5), min(columns, xs.max() + 5)
        shape = (bottom - top, right - left)
        mask = (tile.nuclei[top:bottom, left:right] == label).astype(np.float32)
        for _ in range(200):
            y = int(tile.random.integers(0, rows - shape[0] + 1))
            x = int(tile.random.integers(0, columns - shape[1] + 1))
            if not occupied[y : y + shape[0], x : x + shape[1]].any():
                soft = cv2.GaussianBlur(mask, (0, 0), 1.0)[..., None]
                part = out[y : y + shape[0], x : x + shape[1]]
                part += soft * (tile.hr[top:bottom, left:right] - part)
                occupied[y : y + shape[0], x : x + shape[1]] = 1
                break
    return _to_uint8(out)


def foreign_texture(tile: Tile) -> Image:
    """Return the bicubic tile with the fine detail of another slide."""
    base = tile.other.astype(np.float32)
    low = bicubic_upsample(area_downsample(tile.other, SCALE), SCALE)
    return _to_uint8(bicubic(tile) + (base - low))


def restained(tile: Tile) -> Image:
    """Return the tile with 25 % less haematoxylin and 30 % more eosin."""
    amounts = hed(tile.hr) * np.array([0.75, 1.3, 1.0], np.float32)
    density = amounts @ RGB_FROM_HED
    return _to_uint8(256.0 * 10.0**-density - 1.0)


def grid(tile: Tile) -> Image:
    """Return the tile with every eighth row and column 6 grey levels brighter."""
    out = tile.hr.astype(np.int16)
    out[::8] += 6
    out[:, ::8] += 6
    return _to_uint8(out)


def meshed(tile: Tile) -> Image:
    """Return the tile with a mesh of 4 px, 8 grey levels deep, on one place of 96x96 px."""
    wave = np.tile((8.0, 0.0, -8.0, 0.0), 24)
    y, x = (int(tile.random.integers(0, size - 95)) for size in tile.hr.shape[:2])
    out = tile.hr.astype(np.float32)
    out[y : y + 96, x : x + 96] += (wave[:, None] + wave)[..., None]
    return _to_uint8(out)


FAULTS: dict[str, Callable[[Tile], Image]] = {
    "HR itself": unharmed,
    "bicubic x4": bicubic,
    "1 px shift": shifted,
    "10 % of nuclei erased": erased,
    "10 % invented": invented,
    "foreign texture": foreign_texture,
    "stain shift": restained,
    "8 px grid": grid,
    "4 px mesh on one place": meshed,
}


def run(folder: Path, limit: int | None = 20, seed: int = 0, progress: bool = True) -> Result:
    """Return the table over tiles that hold at least ten nuclei, and what noticed each fault."""
    paths = list_tiles(folder, limit)
    chosen, not_run = available_metrics(["all"])
    segmenter = ClassicalSegmenter()
    rows: dict[str, list[dict[str, Measurement]]] = {name: [] for name in FAULTS}
    for index, path in enumerate(tqdm(paths, unit="tile", disable=not progress)):
        hr = read_image(path)
        nuclei = segmenter.segment(hr, 0.25)
        if nuclei.max() < 1 / SHARE:
            continue
        other = read_image(paths[(index + len(paths) // 2) % len(paths)])
        lr, scan = area_downsample(hr, SCALE), Scan(hr)
        for name, make in FAULTS.items():
            tile = Tile(hr, nuclei, other, np.random.default_rng([seed, index]))
            sample = Sample(make(tile), scan, lr)
            rows[name].append(measure_tile(sample, chosen))
    methods = {name: summarize(values) for name, values in rows.items()}
    caught = {
        name: [key for key, alarm in ALARMS.items() if alarm(values.get(key, math.nan))]
        for name, values in methods.items()
    }
    count = len(rows["HR itself"])
    conventions = {**metric_conventions(chosen), "alarm limits": LIMITS, "tiles": str(count)}
    return Result(methods, caught, not_run, conventions)


@dataclass(frozen=True)
class Result:
    """The table, {fault: measures that noticed it}, what did not run, and the conventions."""

    methods: dict[str, dict[str, float]]
    caught_by: dict[str, list[str]]
    not_run: dict[str, str]
    conventions: dict[str, str]

    @property
    def escaped(self) -> list[str]:
        """Return the faults that no measure noticed, and the real scan where one did."""
        missed = [name for name, by in self.caught_by.items() if not by and name != "HR itself"]
        return missed + ["HR itself"] * bool(self.caught_by["HR itself"])

    def markdown(self) -> str:
        """Return faults x measures with the alarms in bold, limits and gaps below."""
        names = list(dict.fromkeys(name for values in self.methods.values() for name in values))
        lines = []
        for fault, values in self.methods.items():
            alarms = self.caught_by[fault]
            cells = [cell(values.get(name, math.nan)) for name in names]
            marked = [f"**{c}**" if n in alarms else c for n, c in zip(names, cells, strict=True)]
            lines.append([fault, *marked, ", ".join(alarms) or "no alarm"])
        table = markdown_table(["fault", *names, "caught by"], lines)
        gaps = [f"- {name}: not run: {reason}" for name, reason in self.not_run.items()]
        return "\n".join([*table, "", f"Alarm limits: {LIMITS}", "", *gaps]).rstrip()


def _to_uint8(values: npt.NDArray[np.generic]) -> Image:
    return np.clip(np.rint(np.asarray(values, np.float64)), 0, 255).astype(np.uint8)


def _choose(tile: Tile) -> Sequence[int]:
    count = int(tile.nuclei.max())
    return list(tile.random.choice(np.arange(1, count + 1), round(SHARE * count), replace=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, print the table and who caught what; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.sensitivity", description=__doc__
    )
    parser.add_argument("--tiles", type=Path, required=True, help="folder of real 40x tiles")
    parser.add_argument("--limit", type=int, default=20, help="that many tiles, spread evenly")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write the result here")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    try:
        result = run(options.tiles, options.limit, options.seed, not options.quiet)
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    values = {
        "methods": result.methods,
        "caught_by": result.caught_by,
        "not_run": result.not_run,
        "conventions": result.conventions,
    }
    print(result.markdown())
    if options.json is not None:
        options.json.write_text(to_json(values), encoding="utf-8")
    return 1 if result.escaped else 0


if __name__ == "__main__":
    sys.exit(main())
