"""The registry of weights: names, files, digests, origins and licences."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsisr.caches import cache_folder
from wsisr.evaluation.weights.origins import ByHand, Hub, Origin, Web, Wheel

WEIGHTS_VARIABLE = "WSISR_WEIGHTS"
"""Environment variable that names the folder of all weights."""
NON_COMMERCIAL = "non-commercial use only"


def weights_folder() -> Path:
    """Gives the folder of all weights: that of `WSISR_WEIGHTS`, else one among the caches.

    Raises:
        OutputError: there is no place for caches.
    """
    chosen = os.environ.get(WEIGHTS_VARIABLE)
    return Path(chosen) if chosen else cache_folder("weights")


def folder_of(name: str) -> Path:
    """Gives the folder where the files of an entry belong."""
    return weights_folder() / name


@dataclass(frozen=True)
class Weights:
    """The files of one network or model, their licence and where they come from.

    Attributes:
        name: name of the entry and of its folder.
        files: {file name: SHA-256}. A shorter text is the beginning that the publisher gives in
            the file's name; None where there is none, and then the file is pinned at first use.
        origin: where they come from.
        licence: under which licence their authors give them.
    """

    name: str
    files: Mapping[str, str | None]
    origin: Origin
    licence: str

    @property
    def remedy(self) -> str:
        """Tells how to get the files, in one line."""
        by_hand = self.origin.remedy(folder_of(self.name))
        if isinstance(self.origin, ByHand):
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
"""{name: entry} of all weights that measures and segmenters of nuclei know."""
