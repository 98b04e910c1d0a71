"""The histology blur sets: sharp 40x patches, blurred step by step, with scores 10.0 to 0.0.

    python -m train.iqa_dataset --tiles tiles/train --out runs/iqa --patches 5000

Two sets (Histo-Diffusion 2024, section 3.3): `boxblur` by radius and `gaussian` by sigma. One
scale serves both, or the same blur would carry two labels: a box of radius k has a point spread
of variance k(k + 1)/3 px2 an axis, and an image blurred with that variance scores 10 - k,
whatever the kernel. Box radii are whole; the Gaussian's steps lie halfway between them.

Written: `sharp/`, `boxblur/`, `gaussian/` (PNG: a lossy codec would blur once more) and
`manifest.csv`. Patches follow from the seed alone. A run that was cut goes on: files are renamed
into place when complete, and the manifest comes last.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import spearmanr
from tqdm import tqdm

from train.data import SUFFIXES
from wsisr.evaluation.naturalness import sharpness
from wsisr.evaluation.pixels import Image
from wsisr.evaluation.sources import read_image

BEST = 10.0
STEPS = {
    "boxblur": tuple(float(k) for k in range(1, 11)),
    "gaussian": (*(k + 0.5 for k in range(10)), 10.0),
}
"""Of each kind, the equivalent box radii k; the score is 10 - k."""


@dataclass(frozen=True)
class Item:
    """One line of the manifest; `file` is relative to the set's folder."""

    file: str
    kind: str
    """sharp, boxblur or gaussian."""
    score: float
    psf_variance: float
    """px2 along each axis."""
    source: str
    x: int
    y: int


def psf_variance(step: float) -> float:
    """Return the variance of a box of radius `step`, px2 along each axis."""
    return step * (step + 1) / 3


def blur(image: Image, kind: str, step: float) -> Image:
    """Return a (h, w, 3) uint8 image blurred by a box of radius `step` or its Gaussian equal."""
    if kind == "boxblur":
        side = 2 * round(step) + 1
        return np.asarray(cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT), np.uint8)
    sigma = psf_variance(step) ** 0.5
    # float: OpenCV cuts the kernel of 8-bit images at 3 sigma, and its variance falls short
    wide = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(np.rint(wide), 0, 255), np.uint8)


def choose(tiles: Sequence[Path], count: int, side: int, seed: int) -> Iterator[tuple[Path, int]]:
    """Yield (tile, how many patches it gives), the tiles in order, `count` patches in all."""
    share, rest = divmod(count, len(tiles))
    extra = set(np.random.default_rng([seed, side]).permutation(len(tiles))[:rest].tolist())
    for index, tile in enumerate(tiles):
        if share + (index in extra):
            yield tile, share + (index in extra)


def build(tiles: Path, out: Path, count: int, side: int, seed: int) -> list[Item]:
    """Write the sets into `out` and return the manifest.

    Raises `FileNotFoundError` for a folder without tiles, `ValueError` for tiles under `side` px,
    `SlideError` for one that cannot be decoded.
    """
    files = sorted(path for path in tiles.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{tiles}: no {'/'.join(SUFFIXES)} tiles in its sub-folders")
    items: list[Item] = []
    for tile, patches in tqdm(list(choose(files, count, side, seed)), unit="tile", disable=None):
        image = read_image(tile)
        source = tile.relative_to(tiles).as_posix()
        if min(image.shape[:2]) < side:
            raise ValueError(f"{tile}: smaller than a patch of {side} px; give --side")
        random = np.random.default_rng([seed, *source.encode()])
        for _ in range(patches):
            y, x = (int(random.integers(size - side + 1)) for size in image.shape[:2])
            patch = np.ascontiguousarray(image[y : y + side, x : x + side])
            items += _write_patch(patch, out, source, x, y, len(items))
    _write_manifest(items, out)
    return items


def _write_patch(patch: Image, out: Path, source: str, x: int, y: int, number: int) -> list[Item]:
    stem = f"{source.rsplit('.', 1)[0].replace('/', '-')}_{x}_{y}_{len(patch)}_{number}"
    made = [Item(f"sharp/{stem}.png", "sharp", BEST, 0.0, source, x, y)]
    _write(out / made[0].file, lambda: patch)
    for kind, steps in STEPS.items():
        for step in steps:
            name = f"{kind}/{stem}_{step:04.1f}.png"
            variance = round(psf_variance(step), 6)
            made.append(Item(name, kind, BEST - step, variance, source, x, y))
            _write(out / name, partial(blur, patch, kind, step))
    return made


def _write(path: Path, make: Callable[[], Image]) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".partial")
    unfinished.write_bytes(cv2.imencode(".png", make()[:, :, ::-1])[1].tobytes())
    unfinished.replace(path)


def _write_manifest(items: Sequence[Item], out: Path) -> None:
    unfinished = out / "manifest.partial"
    with unfinished.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Item)])
        writer.writerows(astuple(item) for item in items)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(out / "manifest.csv")


def read_manifest(folder: Path) -> list[Item]:
    """Return the lines of a finished set; `FileNotFoundError` where it is not finished."""
    file = folder / "manifest.csv"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: finish python -m train.iqa_dataset first")
    with file.open(newline="") as handle:
        return [
            Item(
                row["file"], row["kind"], float(row["score"]), float(row["psf_variance"]),
                row["source"], int(row["x"]), int(row["y"]),
            )
            for row in csv.DictReader(handle)
        ]  # fmt: skip


def of_kind(items: Sequence[Item], kind: str) -> list[Item]:
    """Return one set: the sharp patches and those blurred by `kind`."""
    return [item for item in items if item.kind in ("sharp", kind)]


def sharpness_correlation(folder: Path, items: Sequence[Item]) -> float:
    """Return Spearman's correlation of scores with `sharpness`, the offline stand-in."""
    values = [sharpness(read_image(folder / item.file)) for item in items]
    return float(spearmanr(values, [item.score for item in items])[0])


def main() -> None:
    """Build the sets and report how well the offline stand-in ranks them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True, help="folder of 40x tiles")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256, help="px of a patch")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        items = build(args.tiles, args.out, args.patches, args.side, args.seed)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for kind in STEPS:
        part = of_kind(items, kind)
        print(
            f"{kind}: {len(part)} images; rank correlation of the offline sharpness stand-in "
            f"{sharpness_correlation(args.out, part):.3f}"
        )


if __name__ == "__main__":
    main()
