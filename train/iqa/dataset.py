"""The histology blur sets: sharp 40x patches, blurred step by step, with scores 10.0 to 0.0.

    python -m train.iqa.dataset --tiles tiles/train --out runs/iqa --patches 5000

Two sets (Histo-Diffusion 2024, section 3.3): `boxblur` by radius and `gaussian` by sigma. One
scale serves both, or the same blur would carry two labels: a box of radius k has a point spread
of variance k(k + 1)/3 px2 an axis, and an image blurred with that variance scores 10 - k,
whatever the kernel. Box radii are whole; the Gaussian's steps lie halfway between them.

Written: `sharp/`, `boxblur/`, `gaussian/` (PNG: a lossy codec would blur once more) and
`manifest.csv` with each file's score and SHA-256. Patches follow from the seed alone and are at
least half tissue: blurred glass looks the same at every score. A run that was cut goes on: files
are renamed into place when complete, and the manifest comes last. Tiles that cannot be decoded,
are too small or show no tissue are left out and named, and other tiles give their share.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from scipy.stats import spearmanr
from tqdm import tqdm

from train.data import SUFFIXES
from wsisr.errors import SlideError, UsageError, WsisrError
from wsisr.evaluation.measures import Image, sharpness
from wsisr.evaluation.pairing import read_image

log = logging.getLogger("train")

BEST = 10.0
GLASS = 215
"""Glass is at least this light in every channel."""
LEAST_TISSUE = 0.5
DRAWS = 20
"""Places tried for a patch with enough tissue."""
PNG_END = b"IEND\xaeB`\x82"
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
    sha256: str
    """Of the file."""


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


def read_tile(path: Path, side: int) -> Image:
    """Return a tile as (h, w, 3) uint8 RGB.

    Raises `SlideError` where it cannot be decoded to its last row (OpenCV would fill up what is
    missing) or is under `side` px.
    """
    try:
        with Pillow.open(path) as file:
            image = np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise SlideError(f"{path} cannot be decoded: {error}") from error
    if min(image.shape[:2]) < side:
        raise SlideError(f"{path} is smaller than a patch of {side} px; give a smaller --side")
    return image


def build(tiles: Path, out: Path, count: int, side: int, seed: int) -> list[Item]:
    """Write the sets of `count` patches of `side` px into `out` and return the manifest.

    Tiles that give no patch are logged.

    Raises `UsageError` for a folder without tiles or `out` with another set, `SlideError` where no
    tile gives a patch.
    """
    files = sorted(path for path in tiles.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{tiles}: no {'/'.join(SUFFIXES)} tiles in its sub-folders")
    if count < 1 or side < 32:
        raise UsageError("--patches must be at least 1, and --side at least the 32 px CLIP needs")
    _claim(out, files, tiles, {"patches": count, "side": side, "seed": seed})
    order = np.random.default_rng([seed, side]).permutation(len(files))
    items: list[Item] = []
    missing, left_out = count, 0
    for rank, index in enumerate(tqdm(order, unit="tile", disable=None)):
        share = -(-missing // (len(files) - rank))  # whatever earlier tiles failed to give
        source = files[index].relative_to(tiles).as_posix()
        try:
            patches = _patches(files[index], share, side, [seed, *source.encode()])
        except SlideError as error:
            log.warning("left out: %s", error)
            left_out += 1
            continue
        for number, (patch, x, y) in enumerate(patches):
            items += _write_patch(patch, out, source, x, y, number)
        missing -= len(patches)
        if not missing:
            break
    if not items:
        raise SlideError(f"{tiles}: none of {len(files)} tiles gives a patch")
    if missing or left_out:
        log.warning("%d tiles left out; %d of %d patches", left_out, count - missing, count)
    items.sort(key=lambda item: item.file)
    _write_manifest(items, out)
    return items


def _claim(out: Path, files: Sequence[Path], tiles: Path, settings: dict[str, int]) -> None:
    """Bind `out` to the settings and tiles (names and sizes); `UsageError` where it has others."""
    names = [f"{path.relative_to(tiles).as_posix()} {path.stat().st_size}" for path in files]
    listed = hashlib.sha256("\n".join(names).encode()).hexdigest()
    text = json.dumps({**settings, "tiles": listed}, indent=2) + "\n"
    file = out / "set.json"
    if file.exists():
        if file.read_text() != text:
            raise UsageError(f"{out} holds a set of other tiles or settings; give another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    unfinished.write_text(text)
    unfinished.replace(file)


def _patches(tile: Path, count: int, side: int, seed: list[int]) -> list[tuple[Image, int, int]]:
    """Return `count` random patches with their x and y; `SlideError` where one finds no tissue."""
    image = read_tile(tile, side)
    random = np.random.default_rng(seed)
    found: list[tuple[Image, int, int]] = []
    for _ in range(count * DRAWS):
        y, x = (int(random.integers(size - side + 1)) for size in image.shape[:2])
        patch = np.ascontiguousarray(image[y : y + side, x : x + side])
        if (patch.min(axis=2) < GLASS).mean() >= LEAST_TISSUE:
            found.append((patch, x, y))
        if len(found) == count:
            return found
    raise SlideError(f"{tile} has too little tissue for {count} patches")


def _write_patch(patch: Image, out: Path, source: str, x: int, y: int, number: int) -> list[Item]:
    stem = f"{source.replace('/', '-').replace('.', '-')}_{number}"
    name = f"sharp/{stem}.png"
    digest = _write(out / name, lambda: patch)
    made = [Item(name, "sharp", BEST, 0.0, source, x, y, digest)]
    for kind, steps in STEPS.items():
        for step in steps:
            name = f"{kind}/{stem}_{step:04.1f}.png"
            variance = round(psf_variance(step), 6)
            digest = _write(out / name, partial(blur, patch, kind, step))
            made.append(Item(name, kind, BEST - step, variance, source, x, y, digest))
    return made


def _write(path: Path, make: Callable[[], Image]) -> str:
    """Write an image unless it is there, and return the file's SHA-256."""
    data = path.read_bytes() if path.exists() else b""
    if not data.endswith(PNG_END):  # not there, or emptied by a power cut
        data = cv2.imencode(".png", make()[:, :, ::-1])[1].tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    return hashlib.sha256(data).hexdigest()


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
    """Return the lines of a finished set; `UsageError` where it is not finished."""
    file = folder / "manifest.csv"
    if not file.exists():
        raise UsageError(f"{file} is missing: finish python -m train.iqa.dataset first")
    with file.open(newline="") as handle:
        return [
            Item(
                row["file"], row["kind"], float(row["score"]), float(row["psf_variance"]),
                row["source"], int(row["x"]), int(row["y"]), row["sha256"],
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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        items = build(args.tiles, args.out, args.patches, args.side, args.seed)
    except WsisrError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    for kind in STEPS:
        part = of_kind(items, kind)
        print(
            f"{kind}: {len(part)} images; rank correlation of the offline sharpness stand-in "
            f"{sharpness_correlation(args.out, part):.3f}"
        )


if __name__ == "__main__":
    main()
