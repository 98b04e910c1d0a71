"""Puts known faults into real tiles and tells which measures notice them.

    python -m bench.quality sensitivity --tiles tiles/test --limit 20 --json s.json

Every fault is made from the real tile itself, so the right answer is known. A measure notices a
fault when its mean crosses the alarm limit below; the limits lie outside what the real scan, judged
against itself, reaches. The exit code is 1 when a fault escapes every measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bench.command import add_json, add_tiles, make_parser, write_json
from bench.quality.markdown import format_figure, markdown_table
from bench.quality.tiles import MPP, list_tiles
from wsisr.evaluation.measures import (
    RGB_FROM_HED,
    Image,
    Measurement,
    Sample,
    Scan,
    available_metrics,
    hed,
    measure_tile,
    metric_conventions,
    summarize,
)
from wsisr.evaluation.nuclei import ClassicalSegmenter, Labels
from wsisr.evaluation.pairing import read_image
from wsisr.resize import area_downsample, bicubic_upsample

SCALE = 4
UNHARMED = "HR itself"
SHARE = 0.1
"""Share of the nuclei that are erased or invented."""
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
    """What a fault is made from.

    Attributes:
        hr: the real tile, uint8 RGB (h, w, 3).
        nuclei: its nuclei, labels from 1, (h, w).
        other: a tile of another slide, of the same size.
        random: random numbers of its own.
    """

    hr: Image
    nuclei: Labels
    other: Image
    random: np.random.Generator


def unharmed(tile: Tile) -> Image:
    """Returns the real tile: no measure may raise an alarm."""
    return tile.hr


def bicubic(tile: Tile) -> Image:
    """Returns the tile enlarged from its x4 average: all fine detail missing."""
    return bicubic_upsample(area_downsample(tile.hr, SCALE), SCALE)


def shifted(tile: Tile) -> Image:
    """Returns the tile moved by one pixel to the right and down."""
    return np.pad(tile.hr, ((1, 0), (1, 0), (0, 0)), mode="edge")[:-1, :-1].copy()


def erased(tile: Tile) -> Image:
    """Returns the tile with a tenth of its nuclei painted over from their surroundings."""
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
    """Returns the tile with copies of a tenth of its nuclei where there were none."""
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
    """Returns the bicubic tile with the fine detail of another slide."""
    base = tile.other.astype(np.float32)
    low = bicubic_upsample(area_downsample(tile.other, SCALE), SCALE)
    return _to_uint8(bicubic(tile) + (base - low))


def restained(tile: Tile) -> Image:
    """Returns the tile with 25 % less haematoxylin and 30 % more eosin."""
    amounts = hed(tile.hr) * np.array([0.75, 1.3, 1.0], np.float32)
    density = amounts @ RGB_FROM_HED
    return _to_uint8(256.0 * 10.0**-density - 1.0)


def grid(tile: Tile) -> Image:
    """Returns the tile with every eighth row and column 6 grey levels brighter."""
    out = tile.hr.astype(np.int16)
    out[::8] += 6
    out[:, ::8] += 6
    return _to_uint8(out)


def meshed(tile: Tile) -> Image:
    """Returns the tile with a mesh of 4 px, 8 grey levels deep, on one place of 96x96 px."""
    wave = np.tile((8.0, 0.0, -8.0, 0.0), 24)
    y, x = (int(tile.random.integers(0, size - 95)) for size in tile.hr.shape[:2])
    out = tile.hr.astype(np.float32)
    out[y : y + 96, x : x + 96] += (wave[:, None] + wave)[..., None]
    return _to_uint8(out)


FAULTS: dict[str, Callable[[Tile], Image]] = {
    UNHARMED: unharmed,
    "bicubic x4": bicubic,
    "1 px shift": shifted,
    "10 % of nuclei erased": erased,
    "10 % invented": invented,
    "foreign texture": foreign_texture,
    "stain shift": restained,
    "8 px grid": grid,
    "4 px mesh on one place": meshed,
}


@dataclass(frozen=True)
class Result:
    """What every measure says of every fault.

    Attributes:
        methods: {fault: {measure: mean over the tiles}}.
        caught_by: {fault: measures that noticed it}.
        not_run: {measure: why it did not run}.
        conventions: {measure: how it is defined}, the limits of alarms and the count of tiles.
    """

    methods: dict[str, dict[str, float]]
    caught_by: dict[str, list[str]]
    not_run: dict[str, str]
    conventions: dict[str, str]

    @property
    def escaped(self) -> list[str]:
        """Returns the faults that no measure noticed, and the real scan where one did."""
        missed = [name for name, by in self.caught_by.items() if not by and name != UNHARMED]
        return missed + [UNHARMED] * bool(self.caught_by[UNHARMED])

    def markdown(self) -> str:
        """Returns faults x measures with the alarms in bold, limits and gaps below."""
        names = list(dict.fromkeys(name for values in self.methods.values() for name in values))
        lines = []
        for fault, values in self.methods.items():
            alarms = self.caught_by[fault]
            cells = [format_figure(values.get(name, math.nan)) for name in names]
            marked = [f"**{c}**" if n in alarms else c for n, c in zip(names, cells, strict=True)]
            lines.append([fault, *marked, ", ".join(alarms) or "no alarm"])
        table = markdown_table(["fault", *names, "caught by"], lines)
        gaps = [f"- {name}: not run: {reason}" for name, reason in self.not_run.items()]
        return "\n".join([*table, "", f"Alarm limits: {LIMITS}", "", *gaps]).rstrip()


def measure(paths: Sequence[Path], seed: int = 0, show_progress: bool = True) -> Result:
    """Puts every fault into the tiles that hold at least ten nuclei and measures them.

    Args:
        paths: files of real tiles, sorted by slide.
        seed: of the random numbers that choose nuclei and places.
        show_progress: whether progress is shown on stderr.
    """
    chosen, not_run = available_metrics(["all"])
    segmenter = ClassicalSegmenter()
    rows: dict[str, list[dict[str, Measurement]]] = {name: [] for name in FAULTS}
    for index, path in enumerate(tqdm(paths, unit="tile", disable=not show_progress)):
        hr = read_image(path)
        nuclei = segmenter.segment(hr, MPP)
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
    count = str(len(rows[UNHARMED]))
    described = {**metric_conventions(chosen), "alarm limits": LIMITS, "tiles": count}
    return Result(methods, caught, not_run, described)


def _to_uint8(values: npt.NDArray[np.generic]) -> Image:
    return np.clip(np.rint(np.asarray(values, np.float64)), 0, 255).astype(np.uint8)


def _choose(tile: Tile) -> Sequence[int]:
    count = int(tile.nuclei.max())
    return list(tile.random.choice(np.arange(1, count + 1), round(SHARE * count), replace=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and who caught what; returns 1 where a fault escapes every measure.

    Raises:
        WsisrError: there are no such tiles, or a file cannot be written.
    """
    parser = make_parser("bench.quality sensitivity", __doc__)
    add_tiles(parser, limit=20)
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random numbers; default: 0"
    )
    add_json(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    options = parser.parse_args(arguments)
    paths = list_tiles(options.tiles, options.slides, options.limit)
    result = measure(paths, options.seed, not options.quiet)
    print(result.markdown())
    write_json(options.json, asdict(result))
    return 1 if result.escaped else 0
