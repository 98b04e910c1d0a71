"""Where an output goes: a path, or object storage with its journal on this machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from wsisr.errors import UsageError
from wsisr.files import os_errors
from wsisr.scaleout.remote.cache import Cache
from wsisr.scaleout.remote.staging import local_path
from wsisr.urls import EXTRAS, name_of, scheme_of, shown


@dataclass(frozen=True)
class Destination:
    """Where an output goes.

    Attributes:
        path: the output; with a URL, the place of its journal on this machine.
        url: object storage that takes the output; None for a path.
    """

    path: Path
    url: str | None


def find_destination(output: str | Path, cache: Cache) -> Destination:
    """Finds out where an output goes, and the place of the journal of one behind a URL.

    Args:
        output: a path or a URL.
        cache: where the journals are.

    Raises:
        UsageError: what is behind the URL can take no output, or not of this format.
        OutputError: the cache cannot be written.
    """
    path = local_path(output)
    if path is not None:
        return Destination(path, None)
    url = str(output).rstrip("/")
    name = name_of(url)
    if EXTRAS.get(scheme_of(url)) == "http":
        raise UsageError(f"{shown(url)}: nothing can be written over http; give s3:// or gs://")
    if not name.lower().endswith(".ome.zarr"):
        raise UsageError(
            f"{shown(url)}: object storage takes .ome.zarr alone; write to a path and copy the file"
        )
    folder = cache.folder / "outputs" / hashlib.sha256(url.encode()).hexdigest()[:24]
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return Destination(folder / name, url)
