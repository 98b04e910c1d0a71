"""Keeps outputs off what is not theirs: inputs of the run, links, and what wsisr did not make.

Every command asks here before it begins, so that a mistake costs nothing. Paths are compared as
the file system does, so that another spelling, a link or a second name of a file is seen through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from wsisr.errors import ExistsError, UsageError
from wsisr.urls import is_url, shown

IsOwn = Callable[[Path], bool]
"""Tells whether wsisr has made what stands at a path."""


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuses to write over what is read.

    Args:
        outputs: files and folders that will be written, replaced or removed.
        inputs: files and folders that are read; those that do not exist are left out.

    Raises:
        UsageError: an output is an input, lies inside one, or has one inside it.
    """
    read = [path for path in inputs if path.exists()]
    for output in outputs:
        for path in read:
            how = _relation(output, path)
            if how:
                raise UsageError(f"{output} {how} {path}, which is read; choose another name")


def refuse_same_url(source: object, output: object) -> None:
    """Refuses to replace what is behind a URL by what is made of it.

    Args:
        source: path or URL of the input.
        output: path or URL of the output.

    Raises:
        UsageError: both are one URL.
    """
    if is_url(source) and is_url(output) and _plain(str(source)) == _plain(str(output)):
        raise UsageError(f"{shown(str(output))} is the input; choose another name")


def _plain(url: str) -> str:
    scheme, separator, rest = url.split("?")[0].partition("://")
    return scheme.lower() + separator + rest.rstrip("/")


def refuse_links(paths: Iterable[Path]) -> None:
    """Refuses symbolic links where files are to be written, for they would lead the bytes away.

    Raises:
        UsageError: one of the paths is a symbolic link.
    """
    for path in paths:
        if path.is_symlink():
            raise UsageError(
                f"{path} is a symbolic link, and is not written through; remove it, or choose "
                "another name"
            )


def refuse_foreign(path: Path, is_own: IsOwn, *, overwrite: bool) -> None:
    """Refuses to replace what may not be replaced; an empty file or folder has nothing to lose.

    Args:
        path: what is to be written.
        is_own: tells whether wsisr has made what is there.
        overwrite: whether the user allows to replace it.

    Raises:
        ExistsError: something is there, and is not to be replaced.
        UsageError: it was not made by wsisr.
    """
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise ExistsError(f"{path} exists; give <overwrite> or another name")
    if not is_empty(path) and not is_own(path):
        raise UsageError(
            f"{path} was not made by wsisr, or is damaged, and is not replaced; remove it, or "
            "choose another name"
        )


def is_empty(path: Path) -> bool:
    """Tells whether a path is an empty file or folder."""
    try:
        if path.is_dir():
            return next(path.iterdir(), None) is None
        return path.is_file() and path.stat().st_size == 0
    except OSError:
        return False


def is_same(one: Path, other: Path) -> bool:
    """Tells whether two paths lead to one existing file or folder, however they are spelled."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _relation(output: Path, read: Path) -> str:
    """Says how an output touches an input; nothing where it does not."""
    if is_same(output, read):
        return "is" if output == read else "is the same as"
    if read.is_dir() and _has_inside(read, output):
        return "lies inside"
    if output.is_dir() and _has_inside(output, read):
        return "holds"
    return ""


def _has_inside(folder: Path, path: Path) -> bool:
    # a link by its own name is where it stands, and by its target where it leads
    ways = {Path(os.path.abspath(path)), path.resolve()}  # noqa: PTH100 -- keeps the last link
    return any(is_same(folder, parent) for way in ways for parent in way.parents)
