"""Finds the slides of a folder: one path for each, whatever files it consists of."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import openslide

from wsisr.slides.ngff import is_zarr

WITH_COMPANIONS = frozenset({".mrxs", ".vms", ".vmu"})
"""Suffixes of slides whose pixels lie in files or in a folder beside them."""
SLIDE_SUFFIXES = WITH_COMPANIONS | frozenset(
    {".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".bif", ".svslide", ".czi"}
    | {".dcm", ".png", ".jpg", ".jpeg"}
)
"""Suffixes, in small letters, of the files that are taken for slides."""
LISTING_CHARACTERS = 1 << 16
"""How much of a file that names its companions is read."""
STEM_SUFFIXES = SLIDE_SUFFIXES | {".zarr"}


def find_slides(folder: Path, *, without: Collection[Path] = ()) -> list[Path]:
    """Lists all slides below a folder.

    Files are known by their suffix and not opened, but for DICOM, whose files are grouped. Hidden
    files and folders are left out, and so are the further files of a slide that has several.
    Folders are entered once, though links may lead to them in circles.

    Args:
        folder: where to look; itself a slide, where it is an OME-Zarr or holds one DICOM slide.
        without: resolved paths of folders that are not entered.

    Returns:
        The files, and the folders that are slides, in the order of their names.

    Raises:
        OSError: a folder cannot be read.
    """
    return list(_below(folder, {path.resolve() for path in without}))


def _below(folder: Path, entered: set[Path]) -> Iterator[Path]:
    resolved = folder.resolve()
    if resolved in entered:
        return
    entered.add(resolved)
    if is_slide(folder):
        yield folder
        return
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    here = set(slides_among(entries))
    if folder in here:
        yield folder
        return
    companions = _companions(entries)
    for path in entries:
        if path in here:
            yield path
        elif path.is_dir() and path not in companions and path.suffix != ".partial":
            yield from _below(path, entered)


def slides_among(entries: Collection[Path]) -> list[Path]:
    """Tells which of the entries of one folder are slides.

    Args:
        entries: all entries of the folder that are not hidden.

    Returns:
        The files among them that are slides, OME-Zarr folders, and for DICOM one file a slide, or
        the folder itself where it holds one slide alone.
    """
    companions = _companions(entries)
    found, dicom = [], []
    for path in sorted(set(entries) - companions):
        suffix = path.suffix.lower()
        if suffix == ".dcm" and path.is_file():
            dicom.append(path)
        elif is_slide(path):
            found.append(path)
    if not dicom:
        return found
    series = _one_file_a_series(dicom)
    if len(series) == 1 and not found:
        return [dicom[0].parent]
    return sorted([*found, *series])


def is_slide(path: Path) -> bool:
    """Tells whether a path looks like a slide: by its suffix, or as the folder of an OME-Zarr.

    Args:
        path: of a file or folder; an unfinished output is none.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        return suffix != ".partial" and is_zarr(path)
    return suffix in SLIDE_SUFFIXES and path.is_file()


def slide_stem(name: str) -> str:
    """Gives the name of a slide without the suffix of its format: `a.b` of `a.b.ome.tif`."""
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 -- a name of a URL is no path
    if suffix.lower() not in STEM_SUFFIXES:
        return name
    return stem[:-4] if stem.lower().endswith(".ome") and len(stem) > 4 else stem


def _companions(entries: Collection[Path]) -> set[Path]:
    """Finds the files and folders that belong to another entry."""
    found: set[Path] = set()
    for path in entries:
        if path.suffix.lower() == ".mrxs":
            found.add(path.with_suffix(""))
        elif path.suffix.lower() in WITH_COMPANIONS and path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                listed = file.read(LISTING_CHARACTERS)
            found.update(other for other in entries if other != path and other.name in listed)
    return found


def _one_file_a_series(files: Collection[Path]) -> list[Path]:
    """Gives the first file of each DICOM series; one that cannot be opened stands for itself."""
    first: dict[str, Path] = {}
    for path in files:
        try:
            with openslide.OpenSlide(str(path)) as slide:
                series = slide.properties.get("dicom.SeriesInstanceUID", str(path))
        except openslide.OpenSlideError:
            series = str(path)
        first.setdefault(series, path)
    return list(first.values())
