"""Finds all files that a slide consists of, and sums them up in digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import openslide

from wsisr.errors import SlideError
from wsisr.files import file_sha256

LISTING_BYTES = 1 << 20
"""How much of a file that names its companions is read."""
LISTED = 64
"""A slide of more files is described by the digest of all of them alone."""
INDEX_SUFFIXES = frozenset({".vms", ".vmu", ".ini"})
"""Suffixes of text files that name other files of a slide."""


def slide_files(path: Path) -> list[Path]:
    """Lists all files that a slide's pixels and metadata can come from.

    Args:
        path: the file or folder that the slide is opened by.

    Returns:
        The files in the order of their names; of a folder all that it holds, the path alone where
        it is a file without companions.

    Raises:
        SlideError: a folder or file cannot be read.
    """
    try:
        if path.is_dir():
            found: Iterable[Path] = (each for each in path.rglob("*") if each.is_file())
        elif path.suffix.lower() == ".mrxs":
            beside = path.with_suffix("")
            inside = (each for each in beside.rglob("*") if each.is_file())
            found = [path, *inside]
        elif path.suffix.lower() in INDEX_SUFFIXES:
            found = {path, *_named_in(path)}
        elif path.is_file() and openslide.OpenSlide.detect_format(str(path)) == "dicom":
            found = {path, *_of_series(path)}
        else:
            found = [path]
        return sorted(found, key=lambda each: each.parts)
    except OSError as error:
        name = error.filename or path
        raise SlideError(f"{name} cannot be read ({error.strerror}); check it") from error


def slide_digests(path: Path, *, with_names: bool = True) -> Mapping[str, Any]:
    """Gives what a slide is known by, whatever it is called: SHA-256 of all its files.

    Args:
        path: the file or folder that the slide is opened by.
        with_names: whether names of files may be told.

    Returns:
        `sha256` of the file, or of the names and digests of several; for a slide of several, but
        not very many, `files` with the digest of each by its name.

    Raises:
        SlideError: a file cannot be read.
    """
    files = slide_files(path)
    try:
        if files == [path]:
            return {"sha256": file_sha256(path)}
        root = path if path.is_dir() else path.parent
        if path.is_dir():
            refuse_links_out(path, files)
        digests = {each.relative_to(root).as_posix(): file_sha256(each) for each in files}
    except OSError as error:
        name = error.filename or path
        raise SlideError(f"{name} cannot be read ({error.strerror}); check it") from error
    lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
    whole = {"sha256": hashlib.sha256(lines.encode()).hexdigest()}
    return {**whole, "files": digests} if with_names and len(digests) <= LISTED else whole


def refuse_links_out(folder: Path, files: Iterable[Path]) -> None:
    """Refuses a slide in a folder that has links to what lies outside of it.

    Raises:
        SlideError: a file is such a link.
    """
    for file in files:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise SlideError(
                f"{folder}: the link {file.name} leads outside of it; replace it by the file where "
                "that can be trusted"
            )


def _named_in(path: Path) -> set[Path]:
    """Finds the files beside an index whose names stand in it."""
    with path.open("rb") as file:
        text = file.read(LISTING_BYTES).decode("utf-8", "replace")
    return {each for each in path.parent.iterdir() if each.is_file() and each.name in text}


def _of_series(path: Path) -> set[Path]:
    """Finds the DICOM files beside one that belong to the same slide, as openslide does."""
    series = _series(path)
    if series is None:
        return set()
    found = set()
    for each in path.parent.iterdir():
        is_dicom = each.is_file() and openslide.OpenSlide.detect_format(str(each)) == "dicom"
        if is_dicom and _series(each) == series:
            found.add(each)
    return found


def _series(path: Path) -> str | None:
    try:
        with openslide.OpenSlide(str(path)) as slide:
            found: str | None = slide.properties.get("dicom.SeriesInstanceUID")
            return found
    except openslide.OpenSlideError:
        return None
