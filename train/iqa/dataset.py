"""Makes the histology blur sets: sharp 40x patches, blurred step by step, scored 10.0 to 0.0.

    python -m train iqa-dataset --tiles tiles/train --out runs/iqa --patches 5000

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

import csv
import hashlib
import io
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from scipy.stats import spearmanr
from tqdm import tqdm

from train.data import SUFFIXES, slide_of
from train.loop import make_parser, run_and_report, slide_names
from wsisr.errors import SlideError, UsageError
from wsisr.evaluation.measures import Image, sharpness
from wsisr.evaluation.pairing import read_image
from wsisr.files import write_atomic
from wsisr.sharing import cell, plain_cell

log = logging.getLogger("train")

BEST = 10.0
"""Score of a sharp patch."""
GLASS = 215
"""Glass is at least this light in every channel."""
LEAST_TISSUE = 0.5
"""Part of a patch that must be tissue."""
DRAWS = 20
"""Number of places that are tried for a patch with enough tissue."""
PNG_END = b"IEND\xaeB`\x82"
"""The last bytes of a whole PNG."""
STEPS = {
    "boxblur": tuple(float(k) for k in range(1, 11)),
    "gaussian": (*(k + 0.5 for k in range(10)), 10.0),
}
"""Kind -> its equivalent box radii k; the score is 10 - k."""


@dataclass(frozen=True)
class Item:
    """One line of the manifest.

    Attributes:
        file: path of the image inside the set's folder.
        kind: sharp, boxblur or gaussian.
        score: from 0 to 10, which is sharp.
        psf_variance: variance of the point spread, px2 along each axis.
        source: path of the tile that the patch is cut from.
        x: left edge of the patch in the tile, px.
        y: upper edge of the patch in the tile, px.
        sha256: hash of the image file.
    """

    file: str
    kind: str
    score: float
    psf_variance: float
    source: str
    x: int
    y: int
    sha256: str


def psf_variance(step: float) -> float:
    """Gives the variance of a box of radius `step`, px2 along each axis."""
    return step * (step + 1) / 3


def blur(image: Image, kind: str, step: float) -> Image:
    """Blurs a (h, w, 3) uint8 image by a box of radius `step`, or by its Gaussian equal."""
    if kind == "boxblur":
        side = 2 * round(step) + 1
        return np.asarray(cv2.blur(image, (side, side), borderType=cv2.BORDER_REFLECT), np.uint8)
    sigma = psf_variance(step) ** 0.5
    # float: OpenCV cuts the kernel of 8-bit images at 3 sigma, and its variance falls short
    wide = cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return np.asarray(np.clip(np.rint(wide), 0, 255), np.uint8)


def read_tile(path: Path, side: int) -> Image:
    """Reads a tile as (h, w, 3) uint8 RGB.

    Raises:
        SlideError: it cannot be decoded to its last row (OpenCV would fill up what is missing), or
            is under `side` px.
    """
    try:
        with Pillow.open(path) as file:
            image = np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise SlideError(f"{path} cannot be decoded: {error}") from error
    if min(image.shape[:2]) < side:
        raise SlideError(f"{path} is smaller than a patch of {side} px; give a smaller --side")
    return image


def build(
    tiles: Path, out: Path, count: int, side: int, seed: int, slides: Sequence[str] = ()
) -> list[Item]:
    """Writes the sets. Tiles that give no patch are logged.

    Args:
        tiles: folder of tiles, one sub-folder a slide.
        out: folder of the sets.
        count: number of sharp patches.
        side: of a patch in px.
        seed: of the choice of patches.
        slides: only tiles of these slides are used, by name; none uses all.

    Returns:
        The manifest.

    Raises:
        UsageError: there are no tiles, or `out` holds another set.
        SlideError: no tile gives a patch.
    """
    files = _find_files(tiles, slides)
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


def _find_files(tiles: Path, slides: Sequence[str]) -> list[Path]:
    """Lists the tiles of some slides, or of all where none is named, sorted by name."""
    files = sorted(path for path in tiles.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{tiles}: no {'/'.join(SUFFIXES)} tiles in its sub-folders")
    slide_by_file = {file: slide_of(file.relative_to(tiles).as_posix()) for file in files}
    for slide in slides:
        if slide not in slide_by_file.values():
            raise UsageError(f"{tiles}: no slide {slide} in it; correct --slides")
    return [file for file in files if not slides or slide_by_file[file] in slides]


def _claim(out: Path, files: Sequence[Path], tiles: Path, settings: dict[str, int]) -> None:
    """Binds `out` to settings and tiles, by their names and sizes; others are an error."""
    names = [f"{path.relative_to(tiles).as_posix()} {path.stat().st_size}" for path in files]
    listed = hashlib.sha256("\n".join(names).encode()).hexdigest()
    text = json.dumps({**settings, "tiles": listed}, indent=2) + "\n"
    file = out / "set.json"
    if file.exists():
        if file.read_text() != text:
            raise UsageError(f"{out} holds a set of other tiles or settings; give another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text.encode())


def _patches(tile: Path, count: int, side: int, seed: list[int]) -> list[tuple[Image, int, int]]:
    """Takes random patches with tissue of a tile, with their x and y."""
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
    """Writes a patch and all that it is blurred to."""
    stem = f"{source.replace('/', '-').replace('.', '-')}_{number}"
    name = f"sharp/{stem}.png"
    digest = _write_image(out / name, lambda: patch)
    made = [Item(name, "sharp", BEST, 0.0, source, x, y, digest)]
    for kind, steps in STEPS.items():
        for step in steps:
            name = f"{kind}/{stem}_{step:04.1f}.png"
            variance = round(psf_variance(step), 6)
            digest = _write_image(out / name, partial(blur, patch, kind, step))
            made.append(Item(name, kind, BEST - step, variance, source, x, y, digest))
    return made


def _write_image(path: Path, make: Callable[[], Image]) -> str:
    """Writes an image unless it is there; gives the file's SHA-256."""
    data = path.read_bytes() if path.exists() else b""
    if not data.endswith(PNG_END):  # not there, or emptied by a power cut
        data = cv2.imencode(".png", make()[:, :, ::-1])[1].tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        unfinished.write_bytes(data)  # not synced: a set is a hundred thousand images
        unfinished.replace(path)
    return hashlib.sha256(data).hexdigest()


def _write_manifest(items: Sequence[Item], out: Path) -> None:
    """Writes manifest.csv, a line an image."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Item)])
    writer.writerows(map(cell, astuple(item)) for item in items)
    write_atomic(out / "manifest.csv", text.getvalue().encode())


def read_manifest(folder: Path) -> list[Item]:
    """Reads the lines of a finished set.

    Raises:
        UsageError: it is not finished.
    """
    file = folder / "manifest.csv"
    if not file.exists():
        raise UsageError(f"{file} is missing: finish python -m train iqa-dataset first")
    with file.open(newline="") as handle:
        return [
            Item(
                plain_cell(row["file"]), row["kind"], float(row["score"]),
                float(row["psf_variance"]),
                plain_cell(row["source"]), int(row["x"]), int(row["y"]), row["sha256"],
            )
            for row in csv.DictReader(handle)
        ]  # fmt: skip


def of_kind(items: Sequence[Item], kind: str) -> list[Item]:
    """Takes one set: the sharp patches and those blurred by `kind`."""
    return [item for item in items if item.kind in ("sharp", kind)]


def sharpness_correlation(folder: Path, items: Sequence[Item]) -> float:
    """Gives Spearman's correlation of scores with `sharpness`, the offline stand-in."""
    values = [sharpness(read_image(folder / item.file)) for item in items]
    return float(spearmanr(values, [item.score for item in items])[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the sets and reports how well the offline stand-in ranks them."""
    parser = make_parser("iqa-dataset", __doc__)
    parser.add_argument("--tiles", type=Path, required=True, help="folder of 40x tiles")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--patches", type=int, default=5000, help="number of sharp patches")
    parser.add_argument("--side", type=int, default=256, help="side of a patch in px")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of patches")
    parser.add_argument(
        "--slides",
        type=slide_names,
        default=(),
        metavar="NAME[,NAME]",
        help="use tiles of these slides alone",
    )
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def work() -> None:
        items = build(args.tiles, args.out, args.patches, args.side, args.seed, args.slides)
        for kind in STEPS:
            chosen = of_kind(items, kind)
            print(
                f"{kind}: {len(chosen)} images; rank correlation of the offline sharpness stand-in "
                f"{sharpness_correlation(args.out, chosen):.3f}"
            )

    return run_and_report(work, args.out)
