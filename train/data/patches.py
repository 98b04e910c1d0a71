"""Cut training patches out of slides: tissue at 40x, in focus, without pen, split by patient.

    python -m train.data.patches SLIDES... --out patches --manifest slides.csv

The manifest is a CSV with the columns slide (file name), patient, and, where wanted, split and mpp.
Without it slides are split at random by patient, who is read from a TCGA barcode; any other slide
counts as a patient of its own, which is said. Written are `OUT/SPLIT/SLIDE-0000.tar` with an index
each (see `train.data.shards`) and `OUT/SPLIT/SLIDE.patches.csv` with every patch's origin and SHA-256. A
slide with that file is done: after an interruption the same command goes on with the next. Slides
may be added later or left out: what was cut of them stays, and a patient stays in one split.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.data.shards import ShardWriter, read_index, write_atomic
from train.data.tiles import CORRUPT
from train.errors import DataError, require
from train.loop import alone, answer
from wsisr.errors import SlideError, UsageError
from wsisr.slides import View, coarser_view, open_slide, select_view
from wsisr.tissue import BLACK, INK_LEAD, INK_SATURATION, tissue_mask

log = logging.getLogger("train")
SPLITS = ("train", "val", "test")
RECORD = "settings.json"
COLUMNS = ("slide", "patient", "split", "mpp")
FINEST, COARSEST = 0.01, 100.0
"""um/px between which a slide's resolution is believed."""
TCGA = re.compile(r"(TCGA-\w{2}-\w{4})", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """What decides which patches are cut; runs into one folder must share it.

    size: side in px. mpp: um/px wanted, and tolerance: how far a slide may lie from it without
    being resampled. tissue: least part of a patch. per_slide: at most so many patches. focus:
    least variance of the Laplacian of luma (0 to 255), under which a patch is out of focus: of
    1046 patches in focus of fifteen slides the least has 32. blur: the blurriest part of a slide
    that is dropped beside. pen: largest part of ink or black. quality: JPEG, 4:4:4.

    Raises:
        UsageError: a value out of its range.
    """

    size: int = 512
    mpp: float = 0.25
    tolerance: float = 0.15
    tissue: float = 0.5
    per_slide: int = 1000
    focus: float = 25.0
    blur: float = 0.1
    pen: float = 0.02
    quality: int = 95
    seed: int = 0

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("size", self.size >= 16, "16 or more"),
            ("mpp", 0 < self.mpp < float("inf"), "a size above 0 in um/px"),
            ("tolerance", 0 <= self.tolerance < 1, "0 or more and below 1"),
            ("tissue", 0 <= self.tissue <= 1, "from 0 to 1"),
            ("per_slide", self.per_slide >= 1, "1 or more"),
            ("focus", 0 <= self.focus < float("inf"), "0 or more"),
            ("blur", 0 <= self.blur < 1, "0 or more and below 1"),
            ("pen", 0 <= self.pen <= 1, "from 0 to 1"),
            ("quality", 1 <= self.quality <= 100, "from 1 to 100"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            option = f"--{name.replace('_', '-')} {getattr(self, name)}"
            require(holds, f"{option}: must be {wanted}")


@dataclass(frozen=True)
class Source:
    """A slide, whose it is, where it goes, and the mpp stated for it (None: the file's)."""

    path: Path
    patient: str
    split: str
    mpp: float | None = None


def plan_sources(
    slides: Sequence[Path],
    rows: Sequence[Mapping[str, str]] | None,
    seed: int,
    known: Mapping[str, str] | None = None,
) -> list[Source]:
    """Give every slide its patient and split.

    rows: of the manifest; None without one. Patients without a split are shuffled by `seed`: a
    tenth, and at least one where there are three, goes to val and to test each. known: patient ->
    split of earlier runs into the same folder.

    Raises:
        UsageError: a slide not in the manifest, or twice in it or among the arguments, an unknown
            split, a patient in two splits.
    """
    stems = [path.stem for path in slides]
    if twice := next((path for path in slides if stems.count(path.stem) > 1), None):
        raise UsageError(
            f"{twice.name} is given twice, or another slide is called {twice.stem}, too; slides "
            "need names of their own"
        )
    stated: dict[str, dict[str, str]] = {}
    for line in rows or ():
        row = {key: (line.get(key) or "").strip() for key in COLUMNS}
        if row["slide"] in stated:
            raise UsageError(f"{row['slide']} has two lines in the manifest; remove one")
        stated[row["slide"]] = row
    sources, unknown = [], []
    for path in slides:
        row = stated.get(path.name, {})
        if rows is not None and not (row and row.get("patient")):
            raise UsageError(f"{path.name}: the manifest states no patient for it; add a line")
        barcode = TCGA.search(path.name)
        patient = row.get("patient") or (barcode[1].upper() if barcode else path.stem)
        if patient == path.stem and not row:
            unknown.append(path.name)
        split = row.get("split") or ""
        if split not in (*SPLITS, ""):
            raise UsageError(f"{path.name}: split {split!r} is not one of {', '.join(SPLITS)}")
        sources.append(Source(path, patient, split, _stated_mpp(path.name, row)))
    if len(unknown) > 1:
        log.warning(
            "%d slides name no patient (%s, …): each counts as a patient of its own; if some are "
            "of one, state patients in a --manifest",
            len(unknown),
            unknown[0],
        )
    splits: dict[str, set[str]] = {}
    for source in sources:
        found = {source.split, (known or {}).get(source.patient, "")} - {""}
        splits.setdefault(source.patient, set()).update(found)
    for patient, found in splits.items():
        if len(found) > 1:
            raise UsageError(
                f"patient {patient} is in {' and '.join(sorted(found))}; all slides of a patient "
                "belong to one split"
            )
    open_ = sorted(patient for patient, found in splits.items() if not found)
    order = [open_[i] for i in np.random.default_rng(seed).permutation(len(open_))]
    if 0 < len(open_) < 3:
        log.warning(
            "%d patients without a split are too few to share out: all go to train; state splits "
            "in the manifest if val and test are wanted",
            len(open_),
        )
    share = max(1, len(open_) // 10) if len(open_) >= 3 else 0
    for i, patient in enumerate(order):
        splits[patient] = {"val" if i < share else "test" if i < 2 * share else "train"}
    return [Source(s.path, s.patient, next(iter(splits[s.patient])), s.mpp) for s in sources]


def _stated_mpp(name: str, row: Mapping[str, str]) -> float | None:
    """The mpp of a manifest's line, None without one; raises UsageError for no size."""
    text = row.get("mpp") or ""
    if not text:
        return None
    try:
        mpp = float(text)
    except ValueError:
        mpp = 0.0
    if not FINEST <= mpp <= COARSEST:
        raise UsageError(
            f"{name}: the manifest's mpp {text!r} is not a size from {FINEST:g} to {COARSEST:g} "
            "um/px; correct it"
        )
    return mpp


def view_at(source: Source, view: View, settings: Settings) -> View:
    """The slide at the wanted resolution: as stored within the tolerance, else reduced.

    Raises:
        SlideError: no resolution is known, none that can be, or the slide is coarser.
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
    """Variance of the Laplacian of the luma of (h, w, 3) RGB: low where out of focus."""
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(luma, cv2.CV_64F).var())


def pen_fraction(pixels: NDArray[np.uint8]) -> float:
    """Part of (h, w, 3) RGB that is black, or green or blue beyond any stain."""
    red, green, blue = (pixels[..., i].astype(np.int16) for i in range(3))
    light, dark = pixels.max(2).astype(np.int16), pixels.min(2)
    vivid = light - dark > INK_SATURATION * light
    green_ink = (green > red + INK_LEAD) & (green > blue + INK_LEAD / 3)
    blue_ink = (blue > red + 3 * INK_LEAD) & (blue > green + INK_LEAD)
    return float(((light < BLACK) | (vivid & (green_ink | blue_ink))).mean())


def cut(source: Source, out: Path, settings: Settings) -> int:
    """Cut one slide, all of it or nothing; returns the number of patches.

    Holds the coded candidates of the slide: a tenth more than `per_slide`, about 0.2 MB each.

    Raises:
        SlideError: no tissue, more than 1 % unreadable patches, or what `open_slide` raises.
    """
    prefix = out / source.split / source.path.stem
    done = prefix.with_name(f"{prefix.name}.patches.csv")
    if done.exists():
        if (patches := _patches(done, prefix)) is not None:
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
    least = np.quantile([sharp for _, _, sharp, _ in candidates], settings.blur)
    kept = [c for c in candidates if c[2] >= least][: settings.per_slide]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("name", "patient", "x", "y", "mpp", "sharpness", "sha256"))
    with ShardWriter(prefix) as writer:
        for x, y, sharp, data in sorted(kept, key=lambda c: (c[1], c[0])):
            tile = writer.add(f"{source.path.stem}/x{x}_y{y}.jpg", data)
            row = (tile.name, source.patient, x, y, f"{view.mpp:.5g}", f"{sharp:.1f}", tile.sha256)
            table.writerow(row)
    write_atomic(done, text.getvalue().encode())
    return len(kept)


def _patches(done: Path, prefix: Path) -> int | None:
    """Patches of a slide that was cut before; None where its shards do not hold all of them."""
    shards = (prefix.with_name(f"{prefix.name}-{i:04d}.tar") for i in count())
    try:
        with done.open(newline="", encoding="utf-8") as file:
            wanted = {row["name"]: row["sha256"] for row in csv.DictReader(file)}
        tiles = [tile for shard in takewhile(Path.exists, shards) for tile in read_index(shard)]
    except (OSError, KeyError, ValueError, csv.Error, DataError):
        return None
    return len(wanted) if wanted == {tile.name: tile.sha256 for tile in tiles} else None


def _candidates(
    source: Source, view: View, settings: Settings
) -> Iterator[tuple[int, int, float, bytes]]:
    """x, y in level-0 px, sharpness and JPEG of patches with tissue, in focus and without pen."""
    mask, size = tissue_mask(view), settings.size
    windows = [
        (x, y)
        for y in range(0, view.height - size + 1, size)
        for x in range(0, view.width - size + 1, size)
        if _tissue(mask.mask, mask.downsample, x, y, size) >= settings.tissue
    ]
    if not windows:
        raise SlideError(
            f"{source.path}: no {size}x{size} px window holds {settings.tissue:.0%} tissue; leave "
            "the slide out, or cut all slides anew with a lower --tissue"
        )
    name = int.from_bytes(hashlib.sha256(source.path.name.encode()).digest()[:4], "big")
    order = np.random.default_rng((settings.seed, name)).permutation(len(windows))
    wanted = int(np.ceil(settings.per_slide / (1 - settings.blur)))
    found = corrupt = 0
    for i in order:
        if found == wanted:
            break
        x, y = windows[i]
        try:
            pixels = view.read(x, y, size, size)
        except SlideError as error:
            corrupt += 1
            log.warning("%s: patch at %d, %d skipped (%s)", source.path.name, x, y, error)
            if corrupt > CORRUPT * min(wanted, len(windows)):
                raise SlideError(
                    f"{source.path}: {corrupt} patches are unreadable, more than {CORRUPT:.0%}; "
                    "copy the slide again or leave it out"
                ) from error
            continue
        sharp = sharpness(pixels)
        if pen_fraction(pixels) > settings.pen or sharp < settings.focus:
            continue
        found += 1
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=settings.quality, subsampling=0)
        scale = view.downsample
        yield round(x * scale), round(y * scale), sharp, buffer.getvalue()


def _tissue(mask: NDArray[np.bool_], downsample: float, x: int, y: int, size: int) -> float:
    rows = slice(int(y / downsample), max(int(y / downsample) + 1, int((y + size) / downsample)))
    left = int(x / downsample)
    return float(mask[rows, left : max(left + 1, int((x + size) / downsample))].mean())


def read_record(out: Path) -> dict[str, Any]:
    """What earlier runs into a folder were given; empty for a new one.

    Raises:
        DataError: it cannot be read.
    """
    file = out / RECORD
    try:
        return dict(json.loads(file.read_text())) if file.exists() else {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose another --out") from error


def known_patients(record: Mapping[str, Any]) -> dict[str, str]:
    """Patient -> split, of a record."""
    return {slide["patient"]: slide["split"] for slide in record.get("slides", {}).values()}


def curate(sources: Sequence[Source], out: Path, settings: Settings) -> dict[str, int]:
    """Check all slides, then cut them; returns the patches of each split.

    Raises:
        DataError: `out` was made with other settings, or a slide with another patient or split.
        SlideError: see `cut` and `view_at`; nothing is cut where a resolution does not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    made = read_record(out)
    slides = {s.path.name: {"patient": s.patient, "split": s.split, "mpp": s.mpp} for s in sources}
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
    record = {"settings": asdict(settings), "slides": earlier | slides}
    for source in sources:
        with open_slide(source.path) as slide:
            view_at(source, select_view(slide, input_mpp=source.mpp, level=0), settings)
    write_atomic(out / RECORD, json.dumps(record, indent=1).encode())
    counts = dict.fromkeys(SPLITS, 0)
    for source in sources:
        count = cut(source, out, settings)
        counts[source.split] += count
        log.info("%s: %d patches for %s", source.path.name, count, source.split)
    return counts


def read_manifest(file: Path) -> list[dict[str, str]]:
    """The lines of a manifest.

    Raises:
        UsageError: it cannot be read, or lacks a column.
    """
    try:
        # Excel puts a mark before UTF-8, which would belong to the first column's name
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = csv.DictReader(lines)
            rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
            lacking = [name for name in ("slide", "patient") if name not in rows.fieldnames]
            if lacking:
                raise UsageError(
                    f"{file} lacks the column {' and '.join(lacking)}; its first line must name "
                    "slide and patient (and split and mpp, where wanted), separated by commas"
                )
            return list(rows)
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{file} cannot be read ({error}); give a CSV in UTF-8") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, help="CSV: slide, patient[, split, mpp]")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def work() -> None:
        settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
        rows = None if args.manifest is None else read_manifest(args.manifest)
        with alone(args.out):
            known = known_patients(read_record(args.out))
            sources = plan_sources(args.slides, rows, settings.seed, known)
            print(curate(sources, args.out, settings))

    return answer(work, args.out)


if __name__ == "__main__":
    sys.exit(main())
