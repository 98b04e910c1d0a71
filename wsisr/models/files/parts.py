"""The parts of a model: their classes, and their weights read strictly.

A missing, unexpected or wrong-shaped tensor is an error, never a randomly initialised layer.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.files import file_sha256
from wsisr.models.files.checkpoint import PICKLES
from wsisr.models.networks import GuidedAutoencoderTiny, LatentControlNet, PlainNet, SwinIR, fold

PART_CLASSES: dict[str, dict[str, type[nn.Module]]] = {
    "restoration": {"SwinIR": SwinIR, "PlainNet": PlainNet},
    "vae": {
        "AutoencoderKL": AutoencoderKL,
        "AutoencoderTiny": AutoencoderTiny,
        "GuidedAutoencoderTiny": GuidedAutoencoderTiny,
    },
    "unet": {"UNet2DConditionModel": UNet2DConditionModel},
    "controlnet": {"LatentControlNet": LatentControlNet},
}
SECOND_STAGE = ("vae", "unet", "controlnet")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a part: one file, or its shards, and not its variants.

    Folders of the hub hold `.fp16.` and `.non_ema.` variants beside the weights; those in half
    precision serve where there is nothing else.

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


def load_state(folder: Path, hashes: dict[str, str] | None = None) -> dict[str, Tensor]:
    """All tensors of a part's safetensors files, float32 on the CPU.

    Raises:
        ModelError: no such file, an unreadable one, or weights that are not finite.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        try:
            state |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: not a readable safetensors file ({error})") from error
        if hashes is not None:
            hashes[f"{folder.name}/{file.name}"] = file_sha256(file)
    for key, value in state.items():
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise ModelError(f"{folder}: weights of {key} are not finite (NaN or infinite)")
            state[key] = value.float()
    return state


def load_module(
    place: Path,
    cls: type[nn.Module],
    hashes: dict[str, str] | None = None,
    scales: int = 0,
    row: int | None = None,
) -> nn.Module:
    """A network of class `cls` from a folder with config.json and safetensors, in float32.

    Args:
        place: the folder.
        cls: one of diffusers' or this package's classes.
        hashes: gets the SHA-256 of the files.
        scales, row: of the model, and the one to load it for, see `wsisr.models.networks.lora.fold`.

    Raises:
        ModelError: see `wsisr.models.from_pretrained`.
    """
    module = empty_module(place, cls)
    fill(module, fold(load_state(place, hashes), scales, row, str(place)), str(place))
    return module


def load_restoration(place: Path) -> nn.Module:
    """A stage 1 of the class that its config.json names, in float32; `SwinIR` where it names none.

    Raises:
        ModelError: see `load_module`.
    """
    classes = PART_CLASSES["restoration"]
    try:
        name = json.loads((place / "config.json").read_text()).get("_class_name", "SwinIR")
    except (OSError, ValueError, AttributeError):
        name = "SwinIR"  # `load_module` says what is wrong with the file
    if name not in classes:
        raise ModelError(f"{place / 'config.json'}: a {name!r}, not {', '.join(classes)}")
    return load_module(place, classes[name])


def empty_module(place: Path, cls: type[nn.Module]) -> nn.Module:
    """A network as its folder's config.json describes it, its parameters not allocated.

    Raises:
        ModelError: no config.json, or one that does not fit the class.
    """
    if not (place / "config.json").is_file():
        raise ModelError(f"{place}: part missing (no config.json)")
    try:
        return make_module(cls, json.loads((place / "config.json").read_text()))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ModelError(f"{place / 'config.json'}: not a {cls.__name__} ({error})") from error


def make_module(cls: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    """A network of class `cls`, its parameters not allocated (on the meta device)."""
    # what diffusers saves beside a class's own arguments is of no use to it
    own = {k: v for k, v in config.items() if k in inspect.signature(cls.__init__).parameters}
    # random weights would only be overwritten, at the price of seconds and of twice the memory
    with init_empty_weights(include_buffers=False):
        return cast(nn.Module, cast(Any, cls).from_config(own))


def fill(module: nn.Module, state: Mapping[str, Tensor], place: str) -> None:
    """Make `state` the weights of a network, which then shares its memory.

    Raises:
        ModelError: a tensor is missing, unknown or of the wrong shape; the text begins with
            `place`.
    """
    if isinstance(module, AutoencoderKL):
        state = {_current_name(key): value for key, value in state.items()}
    own = module.state_dict()
    if missing := sorted(set(own) - set(state)):
        raise ModelError(
            f"{place}: {len(missing)} of {len(own)} weights missing, the first is {missing[0]}"
        )
    if extra := sorted(set(state) - set(own)):
        raise ModelError(f"{place}: {len(extra)} unknown weights, the first is {extra[0]}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{place}: {key} has shape {tuple(value.shape)}, its config.json asks for "
                f"{tuple(own[key].shape)}"
            )
    module.load_state_dict(state, assign=True)


def _current_name(key: str) -> str:
    """Diffusers once called the projections of an autoencoder's attention otherwise."""
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ):
        key = key.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return key
