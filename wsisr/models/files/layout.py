"""Models as folders: a model.json and one sub-folder a part, safetensors only.

    model.json
    restoration/  config.json, *.safetensors     stage 1
    vae/          config.json, *.safetensors     AutoencoderKL, AutoencoderTiny, Guided…
    unet/         config.json, *.safetensors
    controlnet/   config.json, *.safetensors
    prompt/       prompt.safetensors             the blank prompt's embedding

Networks may have weights of their own for each scale, see `wsisr.models.networks.lora`.

A folder with `restoration` alone is a stage-1 model. One with `restoration` and `controlnet` takes
what it lacks of `unet`, `vae` and `prompt` from its base, a published Stable Diffusion 2.1.

What is here reads names and sizes alone, so it imports neither torch nor a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wsisr.errors import ModelError

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
CHECKPOINT_SUFFIXES = (".safetensors", *PICKLES)

PART_CLASSES: dict[str, dict[str, str]] = {
    "restoration": {"SwinIR": "wsisr.models.networks", "PlainNet": "wsisr.models.networks"},
    "vae": {
        "AutoencoderKL": "diffusers",
        "AutoencoderTiny": "diffusers",
        "GuidedAutoencoderTiny": "wsisr.models.networks",
    },
    "unet": {"UNet2DConditionModel": "diffusers"},
    "controlnet": {"LatentControlNet": "wsisr.models.networks"},
}
"""Part -> name of a class that it may have -> the package that the class is imported from."""
SECOND_STAGE = ("vae", "unet", "controlnet")
SHIPPED = {name: Path(__file__).parents[1] / "weights" / name for name in ("tiny", "plain")}
"""Models of the package, by name."""
CONFIGS = {"sd21": Path(__file__).parents[1] / "configs" / "sd21"}
"""Models as descriptions without weights: to be trained, or filled from a checkpoint."""
DEFAULT_MODEL = "tiny"


def find_folder(name: str) -> Path:
    """Finds the folder of a model that ships, or of a path.

    Args:
        name: of a shipped model, or a folder.

    Raises:
        ModelError: there is none.
    """
    if name in CONFIGS and not Path(name).exists():
        raise ModelError(
            f"<model> {name}: a description without weights; convert a published checkpoint "
            "(wsisr models convert CKPT OUT) or train one, and give its folder"
        )
    folder = SHIPPED.get(name, Path(name))
    if not folder.exists():
        known = ", ".join((*SHIPPED, "restore", "bicubic"))
        raise ModelError(f"<model> {name}: neither a known model ({known}) nor an existing folder")
    return folder


def class_name(folder: Path, parts: Mapping[str, str], part: str) -> str:
    """Gives the name of the class that a model's card has for a part.

    Args:
        folder: of the model, for the error.
        parts: of the card.
        part: one of them.

    Raises:
        ModelError: no such part or no such class.
    """
    classes, name = PART_CLASSES.get(part, {}), parts[part]
    if not classes:
        raise ModelError(f"{folder / 'model.json'}: {part} is no part of a model")
    if name not in classes:
        raise ModelError(f"{folder / 'model.json'}: {part} is a {name!r}, not {', '.join(classes)}")
    return name


def weight_files(folder: Path) -> list[Path]:
    """Lists the safetensors files of a part: one file, or its shards, and not its variants.

    Folders of the hub hold `.fp16.` and `.non_ema.` variants beside the weights; those in half
    precision serve where there is nothing else.

    Args:
        folder: of the part.

    Raises:
        ModelError: there are none.
    """
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if file.name.count(".") == 1]
    chosen = plain or [file for file in files if ".fp16." in file.name]
    if chosen:
        return chosen
    pickled = [file for file in sorted(folder.glob("*")) if file.suffix in PICKLES]
    if pickled:
        raise ModelError(
            f"{pickled[0]}: pickled weights are refused, since loading them can run code; "
            "convert them to safetensors"
        )
    raise ModelError(f"{folder}: no *.safetensors weights in it")


def check_config(place: Path) -> Path:
    """Gives the config.json of a part.

    Args:
        place: the part's folder.

    Raises:
        ModelError: there is none.
    """
    if not (place / "config.json").is_file():
        raise ModelError(f"{place}: part missing (no config.json)")
    return place / "config.json"
