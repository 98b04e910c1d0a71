"""Cuts training patches out of slides: tissue at 40x, in focus, without pen, split by patient.

    python -m train patches SLIDES... --out patches --manifest slides.csv

The manifest is a CSV with the columns slide (file name), patient, and, where wanted, split and mpp.
Without it slides are split at random by patient, who is read from a TCGA barcode; any other slide
counts as a patient of its own, which is said. Written are `OUT/SPLIT/SLIDE-0000.tar` with an index
each (see `train.data.shards`) and `OUT/SPLIT/SLIDE.patches.csv` with the origin and SHA-256 of
every patch. A slide with that file is done: after an interruption the same command goes on with
the next. Slides may be added later or left out: what was cut of them stays, and a patient stays in
one split.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from train.config import STRICT_KEYS, Count, CountOrZero, Fraction, Integer, Number, build
from train.data.manifest import (
    COARSEST,
    FINEST,
    SPLITS,
    SourceSlide,
    plan_sources,
    read_manifest,
)
from train.data.shards import ShardWriter, read_index
from train.data.tiles import MAX_UNREADABLE
from train.errors import DataError
from train.loop import lock_folder, make_parser, run_and_report
from wsisr.errors import SlideError, UsageError
from wsisr.files import write_atomic
from wsisr.sharing import cell, plain_cell
from wsisr.slides import View, coarser_view, open_slide, select_view
from wsisr.tissue import BLACK, INK_LEAD, INK_SATURATION, tissue_mask

log = logging.getLogger("train")
RECORD = "settings.json"
FractionBelowOne = Annotated[Number, Field(ge=0, lt=1)]
HELP = {
    "size": "side of a patch in px",
    "mpp": "resolution of the patches in um/px",
    "tolerance": "fraction by which a slide may lie off --mpp without being resampled",
    "tissue": "least part of a patch that is tissue",
    "per_slide": "largest number of patches of one slide",
    "focus": "least variance of the Laplacian of a patch in focus",
    "blur": "part of each slide's patches, the blurriest, that is dropped as well",
    "pen": "largest part of a patch that is ink or black",
    "quality": "JPEG quality of the patches",
    "seed": "seed of the order of patches and of the splits",
}


@dataclass(frozen=True, config=STRICT_KEYS)
class PatchSettings:
    """What decides which patches are cut; all runs into one folder must share it.

    Attributes:
        size: side of a patch in px.
        mpp: resolution that is wanted, um/px.
        tolerance: how far a slide may lie from `mpp`, as a fraction, without being resampled.
        tissue: least part of a patch that is tissue.
        per_slide: largest number of patches of one slide.
        focus: least variance of the Laplacian of luma (0 to 255), under which a patch is out of
            focus: of 1046 patches in focus of fifteen slides the least has 32.
        blur: part of a slide's patches, the blurriest, that is dropped as well.
        pen: largest part of a patch that is ink or black.
        quality: quality of the JPEG files, which are 4:4:4.
        seed: of the order in which patches are tried, and of the splits.
    """

    size: Annotated[Integer, Field(ge=16)] = 512
    mpp: Annotated[Number, Field(gt=0, allow_inf_nan=False)] = 0.25
    tolerance: FractionBelowOne = 0.15
    tissue: Fraction = 0.5
    per_slide: Count = 1000
    focus: Annotated[Number, Field(ge=0, allow_inf_nan=False)] = 25.0
    blur: FractionBelowOne = 0.1
    pen: Fraction = 0.02
    quality: Annotated[Integer, Field(ge=1, le=100)] = 95
    seed: CountOrZero = 0


def make_settings(values: Mapping[str, Any]) -> PatchSettings:
    """Makes settings from the options of the command.

    Raises:
        UsageError: a value is out of its range; the message spells the option.
    """
    try:
        return build(PatchSettings, values)
    except UsageError as error:
        name, _, rule = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {rule}") from error


def view_at(source: SourceSlide, view: View, settings: PatchSettings) -> View:
    """Views a slide at the wanted resolution: as stored within the tolerance, else reduced.

    Raises:
        SlideError: no resolution is known, it is none that a slide can have, or the slide is
            coarser than what is wanted.
    """
    if view.mpp is None:
        raise SlideError(f"{source.path} states no resolution; give its mpp in the manifest")
    if not FINEST <= view.mpp <= COARSEST:
        raise SlideError(
            f"{source.path} states {view.mpp:.4g} um/px, which no slide has; give its mpp in the "
            "manifest"
        )
    ratio = settings.mpp / view.mpp
    if ratio < 1 / (1 + settings.tolerance):
        raise SlideError(
            f"{source.path} has {view.mpp:.4g} um/px, coarser than the {settings.mpp:g} wanted; "
            "leave it out, or cut all slides at its resolution with --mpp"
        )
    return view if ratio <= 1 + settings.tolerance else coarser_view(view, ratio)


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Gives the variance of the Laplacian of luma of (h, w, 3) RGB: low where out of focus."""
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(luma, cv2.CV_64F).var())


def pen_fraction(pixels: NDArray[np.uint8]) -> float:
    """Gives the part of (h, w, 3) RGB that is black, or green or blue beyond any stain."""
    red, green, blue = (pixels[..., i].astype(np.int16) for i in range(3))
    light, dark = pixels.max(2).astype(np.int16), pixels.min(2)
    vivid = light - dark > INK_SATURATION * light
    green_ink = (green > red + INK_LEAD) & (green > blue + INK_LEAD / 3)
    blue_ink = (blue > red + 3 * INK_LEAD) & (blue > green + INK_LEAD)
    return float(((light < BLACK) | (vivid & (green_ink | blue_ink))).mean())


class Patch(NamedTuple):
    """A patch that may be kept.

    Attributes:
        x: left edge in level-0 px.
        y: upper edge in level-0 px.
        sharpness: see `sharpness`.
        data: the coded JPEG.
    """

    x: int
    y: int
    sharpness: float
    data: bytes


def cut(source: SourceSlide, out: Path, settings: PatchSettings) -> int:
    """Cuts one slide, all of it or nothing.

    Args:
        source: the slide.
        out: folder of all slides.
        settings: what is cut.

    Returns:
        The number of patches; of a slide that is done, the number that is there.

    Raises:
        SlideError: no tissue, more than 1 % unreadable patches, or what `open_slide` raises.

    Memory:
        The coded candidates of the slide: a tenth more than `per_slide`, about 0.2 MB each.
    """
    prefix = out / source.split / source.path.stem
    done = prefix.with_name(f"{prefix.name}.patches.csv")
    if done.exists():
        if (patches := _count_patches(done, prefix)) is not None:
            return patches
        log.warning("%s: shards are missing or damaged; it is cut again", source.path.name)
        done.unlink()  # an interruption must not make it done
    with open_slide(source.path) as slide:
        view = view_at(source, select_view(slide, input_mpp=source.mpp, level=0), settings)
        candidates = list(_candidates(source, view, settings))
    if not candidates:
        raise SlideError(
            f"{source.path}: every patch with tissue is unreadable, out of focus or shows pen; "
            "leave it out, or cut all slides anew with a lower --focus or a higher --pen"
        )
    least = np.quantile([patch.sharpness for patch in candidates], settings.blur)
    kept = [patch for patch in candidates if patch.sharpness >= least][: settings.per_slide]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "patient", "x", "y", "mpp", "sharpness", "sha256"))
    with ShardWriter(prefix) as writer:
        for x, y, sharp, data in sorted(kept, key=lambda patch: (patch.y, patch.x)):
            tile = writer.add(f"{source.path.stem}/x{x}_y{y}.jpg", data)
            row = (tile.name, source.patient, x, y, f"{view.mpp:.5g}", f"{sharp:.1f}", tile.sha256)
            table.writerow(map(cell, row))
    write_atomic(done, text.getvalue().encode())
    return len(kept)


def _count_patches(done: Path, prefix: Path) -> int | None:
    """Counts the patches of a slide that was cut before; None where its shards lack some."""
    shards = (prefix.with_name(f"{prefix.name}-{i:04d}.tar") for i in count())
    try:
        with done.open(newline="", encoding="utf-8") as file:
            wanted = {plain_cell(row["name"]): row["sha256"] for row in csv.DictReader(file)}
        tiles = [tile for shard in takewhile(Path.exists, shards) for tile in read_index(shard)]
    except (OSError, KeyError, ValueError, csv.Error, DataError):
        return None
    return len(wanted) if wanted == {tile.name: tile.sha256 for tile in tiles} else None


def _candidates(source: SourceSlide, view: View, settings: PatchSettings) -> Iterator[Patch]:
    """Yields patches with tissue, in focus and without pen, at random places of a grid."""
    places = _places(source, view, settings)
    name = int.from_bytes(hashlib.sha256(source.path.name.encode()).digest()[:4], "big")
    order = np.random.default_rng((settings.seed, name)).permutation(len(places))
    wanted = int(np.ceil(settings.per_slide / (1 - settings.blur)))
    found = corrupt = 0
    for i in order:
        if found == wanted:
            break
        x, y = places[i]
        try:
            pixels = view.read(x, y, settings.size, settings.size)
        except SlideError as error:
            corrupt += 1
            log.warning("%s: patch at %d, %d skipped (%s)", source.path.name, x, y, error)
            if corrupt > MAX_UNREADABLE * min(wanted, len(places)):
                raise SlideError(
                    f"{source.path}: {corrupt} patches are unreadable, more than "
                    f"{MAX_UNREADABLE:.0%}; copy the slide again or leave it out"
                ) from error
            continue
        sharp = sharpness(pixels)
        if pen_fraction(pixels) > settings.pen or sharp < settings.focus:
            continue
        found += 1
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=settings.quality, subsampling=0)
        scale = view.downsample
        yield Patch(round(x * scale), round(y * scale), sharp, buffer.getvalue())


def _places(source: SourceSlide, view: View, settings: PatchSettings) -> list[tuple[int, int]]:
    """Lists the upper left corners, in px of the view, of a grid's patches with enough tissue."""
    mask, size = tissue_mask(view), settings.size
    places = [
        (x, y)
        for y in range(0, view.height - size + 1, size)
        for x in range(0, view.width - size + 1, size)
        if _tissue_fraction(mask.mask, mask.downsample, x, y, size) >= settings.tissue
    ]
    if not places:
        raise SlideError(
            f"{source.path}: no {size}x{size} px patch holds {settings.tissue:.0%} tissue; leave "
            "the slide out, or cut all slides anew with a lower --tissue"
        )
    return places


def _tissue_fraction(
    mask: NDArray[np.bool_], downsample: float, x: int, y: int, size: int
) -> float:
    """Gives the part of a patch that a mask, reduced by `downsample`, takes for tissue."""
    rows = slice(int(y / downsample), max(int(y / downsample) + 1, int((y + size) / downsample)))
    left = int(x / downsample)
    return float(mask[rows, left : max(left + 1, int((x + size) / downsample))].mean())


def read_record(out: Path) -> dict[str, Any]:
    """Reads what earlier runs into a folder were given; empty for a new one.

    Raises:
        DataError: it cannot be read.
    """
    file = out / RECORD
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose another --out") from error


def known_patients(record: Mapping[str, Any]) -> dict[str, str]:
    """Gives the split of each patient of a record."""
    return {slide["patient"]: slide["split"] for slide in record.get("slides", {}).values()}


def curate(sources: Sequence[SourceSlide], out: Path, settings: PatchSettings) -> dict[str, int]:
    """Checks all slides, then cuts them.

    Args:
        sources: the slides.
        out: folder of all slides.
        settings: what is cut.

    Returns:
        The patches of each split.

    Raises:
        DataError: `out` was made with other settings, or a slide with another patient or split.
        SlideError: see `cut` and `view_at`; nothing is cut where a resolution does not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = read_record(out)
    slides = {s.path.name: {"patient": s.patient, "split": s.split, "mpp": s.mpp} for s in sources}
    check_record(made, slides, settings, out)
    record = {"settings": asdict(settings), "slides": made.get("slides", {}) | slides}
    for source in sources:
        with open_slide(source.path) as slide:
            view_at(source, select_view(slide, input_mpp=source.mpp, level=0), settings)
    write_atomic(out / RECORD, json.dumps(record, indent=1).encode())
    counts = dict.fromkeys(SPLITS, 0)
    for source in sources:
        patches = cut(source, out, settings)
        counts[source.split] += patches
        log.info("%s: %d patches for %s", source.path.name, patches, source.split)
    return counts


def check_record(
    made: Mapping[str, Any], slides: Mapping[str, Any], settings: PatchSettings, out: Path
) -> None:
    """Checks that slides and settings go with what a folder was made of.

    Args:
        made: the folder's record, empty for a new one.
        slides: name -> patient, split and mpp.
        settings: what is cut.
        out: the folder, for messages.

    Raises:
        DataError: they do not.
    """
    earlier = made.get("slides", {})
    stems = {Path(name).stem: name for name in earlier}
    for name in slides:
        if stems.get(Path(name).stem, name) != name:
            raise DataError(
                f"{name} would be taken for {stems[Path(name).stem]}, which was cut before; slides "
                "need names of their own"
            )
    changed = [name for name in slides if earlier.get(name, slides[name]) != slides[name]]
    if made and made.get("settings") != asdict(settings):
        raise DataError(f"{out} was made with other settings; choose another --out")
    if made and (changed or "slides" not in made):
        which = f"{changed[0]} with another patient, split or mpp" if changed else "other slides"
        raise DataError(f"{out} was made with {which}; choose another --out")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = make_parser("patches", __doc__)
    parser.add_argument("slides", type=Path, nargs="+", help="slides to cut")
    parser.add_argument("--out", type=Path, required=True, help="folder of the patches")
    parser.add_argument("--manifest", type=Path, help="CSV: slide, patient[, split, mpp]")
    defaults = asdict(PatchSettings())
    for name, value in defaults.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=HELP[name])
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def work() -> None:
        settings = make_settings({name: getattr(args, name) for name in defaults})
        rows = None if args.manifest is None else read_manifest(args.manifest)
        with lock_folder(args.out):
            known = known_patients(read_record(args.out))
            sources = plan_sources(args.slides, rows, settings.seed, known)
            print(curate(sources, args.out, settings))

    return run_and_report(work, args.out)
