"""Tells what a writer of pyramids has made from what bears the same name by chance.

An output is known by the creator that its metadata names, an unfinished one by its journal, or
where a kill came before that by what begins every partial output. All else is left alone.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import tifffile

from wsisr.errors import UsageError
from wsisr.guard import is_empty, refuse_foreign, refuse_links
from wsisr.parsing import parse_xml
from wsisr.pyramid.metadata import CREATOR
from wsisr.pyramid.ngff import METADATA_NAMES, OME_XML
from wsisr.pyramid.records import MAGIC, journal_path, lock_path, pieces_path
from wsisr.pyramid.tiff import SOFTWARE, UNFINISHED

UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, OverflowError, struct.error,
    tifffile.TiffFileError,
)  # fmt: skip
"""What damaged and foreign files make their readers raise."""
LONGEST_LOCK = 1024
"""Bytes of a lock file: it is empty, or names its owner where the system has no locks."""


def partial_path(out: Path) -> Path:
    """Names an output until it is complete, `<OUT>.partial`."""
    return out.with_name(out.name + ".partial")


def replaced_path(out: Path) -> Path:
    """Names the folder that an output takes the place of, `<OUT>.replaced`."""
    return out.with_name(out.name + ".replaced")


def written_paths(out: Path) -> list[Path]:
    """Lists all that is written, replaced or removed on the way to an output, itself first."""
    return [out, *_beside(out)]


def _beside(out: Path) -> list[Path]:
    return [partial_path(out), journal_path(out), pieces_path(out), lock_path(out),
            replaced_path(out)]  # fmt: skip


def check_names(out: Path, *, overwrite: bool, is_folder: bool) -> None:
    """Makes sure that an output and the files on the way to it replace nothing but their like.

    Args:
        out: the output.
        overwrite: whether an older output may be replaced.
        is_folder: whether the output will be a folder.

    Raises:
        UsageError: the output exists and is not to be replaced, or something else has its name or
            the name of a file that is needed on the way.
    """
    refuse_foreign(out, is_own_output, overwrite=overwrite)
    if out.exists() and out.is_dir() != is_folder:
        kind = "file" if is_folder else "folder"
        raise UsageError(f"{out} is a {kind} of another format; remove it, or choose another name")
    check_beside(out)


def check_beside(out: Path) -> None:
    """Makes sure that what bears the names of an unfinished output is one.

    Raises:
        UsageError: something else does.
    """
    beside = _beside(out)
    refuse_links(beside)
    partial, journal, pieces, lock, replaced = beside
    begun = is_journal(journal)
    owned = {
        journal: begun,
        pieces: begun,
        partial: begun or _is_unfinished(partial),
        lock: _is_lock(lock),
        # a kill may have come while it was removed
        replaced: replaced.is_dir() and _has_zarr_alone(replaced),
    }
    for path, is_own in owned.items():
        if os.path.lexists(path) and not is_own and not is_empty(path):
            raise UsageError(
                f"{path} is needed on the way to {out.name} and was not made by wsisr, or is left "
                "of a run without its journal; move it away, or choose another name"
            )


def is_own_output(path: Path) -> bool:
    """Tells whether a path is a complete output of wsisr."""
    try:
        if path.is_dir():
            text = (path / OME_XML).read_text(encoding="utf-8", errors="replace")
            return parse_xml(text).get("Creator") == CREATOR
        with tifffile.TiffFile(path) as file:
            return bool(file.pages.first.software == SOFTWARE)
    except UNREADABLE:
        return False


def _head(path: Path, length: int) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError:
        return None


def is_journal(path: Path) -> bool:
    """Tells whether a file begins as a journal does; a byte of that may have gone bad."""
    head = _head(path, len(MAGIC))
    if head is None:
        return False
    wrong = sum(one != other for one, other in zip(head, MAGIC, strict=False))
    return wrong <= (1 if len(head) == len(MAGIC) else 0)


def _is_unfinished(path: Path) -> bool:
    """Tells whether a path is what a run leaves that was killed before it had a journal."""
    if path.is_dir():
        return _has_zarr_alone(path)
    head = _head(path, len(UNFINISHED))
    return head is not None and (UNFINISHED.startswith(head) or is_own_output(path))


def _has_zarr_alone(folder: Path) -> bool:
    """Tells whether a folder has nothing but what an OME-Zarr is made of, maybe not all of it."""
    known = METADATA_NAMES | {OME_XML.parent.name, "c"}
    return all(entry.name.isdecimal() or entry.name in known for entry in folder.rglob("*"))


def _is_lock(path: Path) -> bool:
    """Tells whether a file can be a lock: that of a system without locks names process and host."""
    head = _head(path, LONGEST_LOCK + 1)
    if head is None or len(head) > LONGEST_LOCK:
        return False
    return head.split(b"\n")[0].strip().isdigit() if head else True
