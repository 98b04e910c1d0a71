"""Which slides patches are cut from: whose they are, and the split that they belong to.

A manifest is a CSV with the columns slide (file name) and patient and, where wanted, split and
mpp. Without one, slides are split at random by patient, who is read from a TCGA barcode; any other
slide counts as a patient of its own, which is said.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wsisr.errors import UsageError

log = logging.getLogger("train")
SPLITS = ("train", "val", "test")
COLUMNS = ("slide", "patient", "split", "mpp")
FINEST, COARSEST = 0.01, 100.0
"""um/px between which a slide's resolution is believed."""
TCGA = re.compile(r"(TCGA-\w{2}-\w{4})", re.IGNORECASE)

Row = Mapping[str, str]
"""A line of a manifest, by column."""


@dataclass(frozen=True)
class SourceSlide:
    """A slide that patches are cut from.

    Attributes:
        path: its file.
        patient: whose it is.
        split: where its patches go, one of `SPLITS`; empty while that is open.
        mpp: resolution that is stated for it, um/px; None takes the file's.
    """

    path: Path
    patient: str
    split: str
    mpp: float | None = None


def plan_sources(
    slides: Sequence[Path],
    rows: Sequence[Row] | None,
    seed: int,
    known: Mapping[str, str] | None = None,
) -> list[SourceSlide]:
    """Gives every slide its patient and split.

    Patients without a split are shuffled: a tenth of them, and at least one where there are three,
    goes to val and to test each.

    Args:
        slides: files of names of their own.
        rows: lines of the manifest; None without one.
        seed: of the shuffle.
        known: patient -> split of earlier runs into the same folder.

    Returns:
        The slides in their order.

    Raises:
        UsageError: a slide is not in the manifest, or twice in it or among the arguments, a split
            is unknown, or a patient is in two.
    """
    check_names(slides)
    stated = None if rows is None else _by_slide(rows)
    sources = [_source(path, stated) for path in slides]
    if stated is None:
        _warn_of_unknown_patients(sources)
    splits = share_out(_stated_splits(sources, known or {}), seed)
    return [replace(source, split=splits[source.patient]) for source in sources]


def check_names(slides: Sequence[Path]) -> None:
    """Checks that the slides' names differ, for the patches are named after them.

    Raises:
        UsageError: two of them have one name.
    """
    stems = [path.stem for path in slides]
    if twice := next((path for path in slides if stems.count(path.stem) > 1), None):
        raise UsageError(
            f"{twice.name} is given twice, or another slide is called {twice.stem}, too; slides "
            "need names of their own"
        )


def _by_slide(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Sorts the lines of a manifest by their slides, which must differ."""
    stated: dict[str, dict[str, str]] = {}
    for line in rows:
        row = {key: (line.get(key) or "").strip() for key in COLUMNS}
        if row["slide"] in stated:
            raise UsageError(f"{row['slide']} has two lines in the manifest; remove one")
        stated[row["slide"]] = row
    return stated


def _source(path: Path, stated: Mapping[str, Row] | None) -> SourceSlide:
    """Reads what the manifest, or else the file's name, says of a slide."""
    row = (stated or {}).get(path.name, {})
    if stated is not None and not row.get("patient"):
        raise UsageError(f"{path.name}: the manifest states no patient for it; add a line")
    barcode = TCGA.search(path.name)
    patient = row.get("patient") or (barcode[1].upper() if barcode else path.stem)
    split = row.get("split") or ""
    if split not in (*SPLITS, ""):
        raise UsageError(f"{path.name}: split {split!r} is not one of {', '.join(SPLITS)}")
    return SourceSlide(path, patient, split, _stated_mpp(path.name, row))


def _warn_of_unknown_patients(sources: Sequence[SourceSlide]) -> None:
    """Warns where several slides name no patient, and no manifest does."""
    unknown = [source.path.name for source in sources if source.patient == source.path.stem]
    if len(unknown) > 1:
        log.warning(
            "%d slides name no patient (%s, …): each counts as a patient of its own; if some are "
            "of one, state patients in a --manifest",
            len(unknown),
            unknown[0],
        )


def _stated_splits(sources: Sequence[SourceSlide], known: Mapping[str, str]) -> dict[str, str]:
    """Gives the split of each patient, empty where it is open.

    Raises:
        UsageError: a patient is in two splits.
    """
    splits: dict[str, set[str]] = {}
    for source in sources:
        found = {source.split, known.get(source.patient, "")} - {""}
        splits.setdefault(source.patient, set()).update(found)
    for patient, found in splits.items():
        if len(found) > 1:
            raise UsageError(
                f"patient {patient} is in {' and '.join(sorted(found))}; all slides of a patient "
                "belong to one split"
            )
    return {patient: next(iter(found), "") for patient, found in splits.items()}


def share_out(splits: Mapping[str, str], seed: int) -> dict[str, str]:
    """Gives the patients without a split one, at random.

    Args:
        splits: patient -> split, empty where it is open.
        seed: of the shuffle.

    Returns:
        Patient -> split.
    """
    waiting = sorted(patient for patient, split in splits.items() if not split)
    order = [waiting[i] for i in np.random.default_rng(seed).permutation(len(waiting))]
    if 0 < len(waiting) < 3:
        log.warning(
            "%d patients without a split are too few to share out: all go to train; state splits "
            "in the manifest if val and test are wanted",
            len(waiting),
        )
    share = max(1, len(waiting) // 10) if len(waiting) >= 3 else 0
    drawn = {
        patient: "val" if i < share else "test" if i < 2 * share else "train"
        for i, patient in enumerate(order)
    }
    return {**splits, **drawn}


def _stated_mpp(name: str, row: Row) -> float | None:
    """Reads the mpp of a manifest's line, None without one.

    Raises:
        UsageError: it is no resolution that a slide can have.
    """
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


def read_manifest(file: Path) -> list[dict[str, str]]:
    """Reads the lines of a manifest.

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
