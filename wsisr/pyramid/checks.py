"""What can be told of an output from its name, before anything is imported that writes it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from wsisr.errors import ExistsError, OutputError, UsageError
from wsisr.pyramid.records import journal_path

TIFF_SUFFIXES = (".ome.tif", ".ome.tiff")
ZARR_SUFFIXES = (".ome.zarr",)


def check_output(out: Path, *, overwrite: bool) -> None:
    """Checks that an output may be written under its name.

    One that has a journal beside it was finished in the moment when its run was killed, and the
    same command tidies up.

    Args:
        out: its path.
        overwrite: whether an existing one is replaced.

    Raises:
        UsageError: the suffix is unknown.
        ExistsError: the output exists.
        OutputError: its folder is missing.
    """
    check_place(out)
    if os.path.lexists(out) and not overwrite and not journal_path(out).is_file():
        raise ExistsError(f"{out} exists; give <overwrite> or another name")


def check_place(out: Path) -> None:
    """Checks suffix and folder of an output.

    Raises:
        UsageError: the suffix is unknown.
        OutputError: the folder is missing.
    """
    output_kind(out)
    if not out.parent.is_dir():
        raise OutputError(f"{out}: the folder {out.parent} does not exist; create it first")


def output_kind(out: Path) -> Literal["tiff", "zarr"]:
    """Tells the format of an output from its suffix.

    Args:
        out: its path.

    Raises:
        UsageError: the suffix is unknown.
    """
    name = out.name.lower()
    if any(name.endswith(suffix) and len(name) > len(suffix) for suffix in TIFF_SUFFIXES):
        return "tiff"
    if any(name.endswith(suffix) and len(name) > len(suffix) for suffix in ZARR_SUFFIXES):
        return "zarr"
    known = ", ".join(TIFF_SUFFIXES + ZARR_SUFFIXES)
    raise UsageError(f"{out}: the name must end in one of {known}")
