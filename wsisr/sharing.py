"""What stands in files that are passed on: no folders, no names where none are wanted, no formulas.

Folders tell who works where, and the name of a slide may be a patient's.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from wsisr.urls import is_url, last_part, shown

_FOLDERS = re.compile(
    r"(?<![\w.:/\\-])(?:/[^\s/:;,'\"()]+)*/(?=[^\s/:;,'\"()])|\b[A-Za-z]:\\(?:[^\s\\]+\\)*"
)
"""The folders of an absolute path; those of a URL follow a colon or a letter."""
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|")
"""A spreadsheet takes a cell that begins so for a formula, a program or a further cell."""
ENDS_BYTES = 1 << 20


def file_name(place: str | Path) -> str:
    """Gives the name of a file without its folders, and a URL without what is secret in it."""
    return shown(place) if isinstance(place, str) and is_url(place) else last_part(str(place))


def without_folders(text: str, *places: str | Path | None) -> str:
    """Gives a text in which files are named without the folders that they lie in.

    Args:
        text: the text.
        places: files whose folders are known, for blanks in paths are not to be told from others.
    """
    if "/" not in text and "\\" not in text:
        return text
    for place in places:
        if place is None or (isinstance(place, str) and is_url(place)):
            continue
        for folder in {Path(place).absolute().parent, Path(place).resolve().parent}:
            if folder != folder.parent:
                text = re.sub(rf"{re.escape(str(folder))}[/\\]", "", text)
                text = re.sub(rf"{re.escape(str(folder))}(?![\w.-])", "folder", text)
    return _FOLDERS.sub("", text)


def shareable(value: Any) -> Any:
    """Gives a value as JSON holds it; of a path that is absolute only its name.

    Args:
        value: of mappings, sequences, paths and plain values; those that JSON lacks become text.
    """
    if isinstance(value, Mapping):
        return {str(key): shareable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = shown(str(value))
    return file_name(text) if _is_absolute(text) else text


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def pseudonym(place: str | Path) -> str:
    """Gives a name that stands for a slide and does not tell its own: a digest of its content.

    A digest of the name would be found by trying names. Size, beginning and end of the file are
    taken, so that it is quick; of a folder, those of its files.

    Args:
        place: path of a file or a folder; of a URL the text is taken.

    Returns:
        Twelve hexadecimal digits.
    """
    digest = hashlib.sha256()
    path = Path(place)
    if (isinstance(place, str) and is_url(place)) or not path.exists():
        return hashlib.sha256(str(place).encode("utf-8", "replace")).hexdigest()[:12]
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        if file is files[0] or file is files[-1]:
            with file.open("rb") as handle:
                digest.update(handle.read(ENDS_BYTES))
                handle.seek(max(0, size - ENDS_BYTES))
                digest.update(handle.read(ENDS_BYTES))
    return digest.hexdigest()[:12]


def to_csv(rows: Iterable[Sequence[object]]) -> str:
    """Writes rows as CSV that no spreadsheet computes; what is unknown is blank.

    Args:
        rows: the cells of each line.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([cell(value) for value in row] for row in rows)
    return text.getvalue()


def cell(value: object) -> object:
    """Gives a cell's value: text that a spreadsheet would compute gets an apostrophe before it."""
    if isinstance(value, str):
        # a bare carriage return ends a line unquoted
        value = value.replace("\r", "\n")
        return f"'{value}" if value.startswith(FORMULA) else value
    return "" if value is None or value != value else value


def plain_cell(text: str) -> str:
    """Gives the text that `cell` wrote."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
