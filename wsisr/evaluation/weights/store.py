"""Finds weights in their folder and fetches those that are missing.

Each file is checked against its SHA-256 before use, and nothing is read that could run Python
code: text, npz without pickles, MATLAB files, safetensors and `torch.load(weights_only=True)`.

Some publishers give no SHA-256. Such a file is pinned when it is first used: its digest goes into
`WSISR_WEIGHTS/manifest.json` with a warning, and a file that has changed since is refused. What
`train.iqa.clip_iqa` writes there is pinned as it is written.
"""

from __future__ import annotations

import json
import logging
import tempfile
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from wsisr.errors import ModelError, OutputError, UsageError
from wsisr.evaluation.weights.registry import (
    REGISTRY,
    WEIGHTS_VARIABLE,
    Weights,
    folder_of,
    weights_folder,
)
from wsisr.files import file_sha256, os_errors, write_atomic
from wsisr.parsing import MalformedError, read_json_object

MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)
_manifest_lock = threading.Lock()


def find_weights(name: str) -> dict[str, Path]:
    """Finds an entry's files and checks each against its SHA-256.

    Args:
        name: an entry of `REGISTRY`.

    Returns:
        {file name: path}.

    Raises:
        ModelError: a file is missing or has another content; the message says how to get it.
        UsageError: no weights are registered under that name.
    """
    entry = _entry(name)
    paths = {file: folder_of(name) / file for file in entry.files}
    for file, path in paths.items():
        if not path.is_file():
            raise ModelError(f"weights missing: {path}; {entry.remedy}")
        _check(entry, file, path)
    return paths


def _check(entry: Weights, file: str, path: Path) -> None:
    published = entry.files[file]
    expected = published or _pinned(f"{entry.name}/{file}", path)
    found = cached_sha256(path)
    if found.startswith(expected):
        return
    if published is None:
        raise ModelError(
            f"{path} has changed since its first use (SHA-256 {found[:12]}..., then "
            f"{expected[:12]}...); if you replaced it, delete {entry.name}/{file} from "
            f"{weights_folder() / MANIFEST}, else delete the file and {entry.remedy}"
        )
    raise ModelError(
        f"{path} is not the registered file (SHA-256 {found[:12]}..., expected "
        f"{expected[:12]}...); delete it and {entry.remedy}"
    )


def why_missing(*names: str) -> str | None:
    """Tells why weights cannot be used, with the remedy.

    Args:
        *names: entries of `REGISTRY`.

    Returns:
        One line about the first that lacks, None where all are there and right.
    """
    for name in names:
        try:
            find_weights(name)
        except ModelError as error:
            return str(error)
    return None


def weights_digests(*names: str) -> dict[str, str]:
    """Gives the digests of the files of entries.

    Args:
        *names: entries of `REGISTRY`.

    Returns:
        {NAME/FILE: SHA-256}.

    Raises:
        ModelError: a file is missing or has another content.
    """
    return {
        f"{name}/{file}": cached_sha256(path)
        for name in names
        for file, path in find_weights(name).items()
    }


def list_weights() -> list[str]:
    """Gives one line an entry: its name, whether its files are there, its licence."""
    there = present_weights()
    return [
        f"{name:20}{'there' if name in there else 'missing':10}{entry.licence}"
        for name, entry in REGISTRY.items()
    ]


def present_weights() -> list[str]:
    """Gives the names of the entries whose files are there; their content is not looked at."""
    return [
        name
        for name, entry in REGISTRY.items()
        if all((folder_of(name) / file).is_file() for file in entry.files)
    ]


def fetch_weights(name: str) -> dict[str, Path]:
    """Downloads an entry's files into their folder and checks them; right ones stay.

    Args:
        name: an entry of `REGISTRY`.

    Returns:
        {file name: path}.

    Raises:
        ModelError: the download fails or brings another content; the message is one line that
            says what to do by hand.
        OutputError: the folder cannot be written.
        UsageError: no weights are registered under that name.
    """
    if why_missing(name) is None:
        return find_weights(name)
    # the library of downloads is slow to import, and most runs need none
    from wsisr.evaluation.weights.downloads import download_weights

    entry, folder = _entry(name), folder_of(name)
    try:
        weights_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=weights_folder()) as scratch:
            found = download_weights(entry, Path(scratch))
            for file, path in found.items():
                if not file_sha256(path).startswith(entry.files[file] or ""):
                    raise ModelError(f"its publisher gave another {file}")
            folder.mkdir(exist_ok=True)
            for file, path in found.items():
                path.replace(folder / file)
    except ModelError as error:
        raise ModelError(f"{name}: {error}; {entry.origin.remedy(folder)}") from error
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}; set {WEIGHTS_VARIABLE} to a folder of "
            "your own"
        ) from error
    return find_weights(name)


def _entry(name: str) -> Weights:
    if name not in REGISTRY:
        raise UsageError(f"no weights registered as {name}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def renew_pin(path: Path) -> None:
    """Pins a file anew that has just been made; does nothing for one that is not registered.

    Args:
        path: the file.

    Raises:
        OutputError: the manifest cannot be written.
        ModelError: the manifest is damaged.
    """
    for entry in REGISTRY.values():
        for file, published in entry.files.items():
            if published is None and path.resolve() == (folder_of(entry.name) / file).resolve():
                with _manifest_lock:
                    _write_pins({**_read_pins(), f"{entry.name}/{file}": cached_sha256(path)})


def _pinned(key: str, path: Path) -> str:
    """Gives the digest that a file without a published one had at its first use."""
    with _manifest_lock:
        known = _read_pins()
        if key in known:
            return known[key]
        found = cached_sha256(path)
        manifest = weights_folder() / MANIFEST
        try:
            _write_pins({**known, key: found})
            logger.warning("%s: no published SHA-256; pinned as %s in %s", path, found, manifest)
        except OutputError as error:
            logger.warning("%s (SHA-256 %s) cannot be pinned: %s", path, found, error)
        return found


def _read_pins() -> dict[str, str]:
    manifest = weights_folder() / MANIFEST
    try:
        return read_json_object(manifest) if manifest.is_file() else {}
    except (OSError, MalformedError) as error:
        raise ModelError(f"{manifest} cannot be read: {error}; repair or delete it") from error


def _write_pins(pins: Mapping[str, str]) -> None:
    manifest = weights_folder() / MANIFEST
    with os_errors(manifest):
        write_atomic(manifest, json.dumps(pins, indent=2, sort_keys=True) + "\n")


def cached_sha256(path: Path) -> str:
    """Gives the SHA-256 of a file, read once for each state of it."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hashes a file; size and time are the key of the cache, not of the content."""
    return file_sha256(path)
