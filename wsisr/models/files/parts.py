"""The parts of a model: their classes, and their weights read strictly.

A missing, unexpected or wrong-shaped tensor is an error, never a randomly initialised layer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.files import file_sha256
from wsisr.models.files.checkpoint import check_finite, read_safetensors
from wsisr.models.files.configuration import read_config
from wsisr.models.files.layout import PART_CLASSES, weight_files
from wsisr.models.light import light_network
from wsisr.models.networks import fold_scale


def network_class(part: str, name: str) -> type[nn.Module]:
    """Imports the class of a part.

    Args:
        part: a key of `PART_CLASSES`.
        name: of a class that stands there.
    """
    # only now: diffusers' networks take seconds to import, and most models need few of them
    package = importlib.import_module(PART_CLASSES[part][name])
    return cast(type[nn.Module], getattr(package, name))


def load_state(folder: Path, hashes: dict[str, str] | None = None) -> dict[str, Tensor]:
    """Reads all tensors of a part's safetensors files, float32 on the CPU.

    Args:
        folder: of the part.
        hashes: gets the SHA-256 of the files.

    Raises:
        ModelError: no such file, an unreadable one, or weights that are not finite.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= read_safetensors(file)
        if hashes is not None:
            hashes[f"{folder.name}/{file.name}"] = file_sha256(file)
    check_finite(state, str(folder))
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def load_module(
    place: Path,
    cls: type[nn.Module],
    hashes: dict[str, str] | None = None,
    scales: int = 0,
    row: int | None = None,
) -> nn.Module:
    """Loads a network from a folder with config.json and safetensors, in float32.

    Args:
        place: the folder.
        cls: one of diffusers' or this package's classes.
        hashes: gets the SHA-256 of the files.
        scales: how many the model has.
        row: index of the scale to load it for, see `wsisr.models.networks.fold_scale`.

    Raises:
        ModelError: see `wsisr.models.from_pretrained`.
    """
    return _filled(empty_module(place, cls), place, hashes, scales, row)


def load_light(
    place: Path, name: str, hashes: dict[str, str], scales: int, row: int | None
) -> nn.Module:
    """Loads a network to run: in its light form where it has one, which spares diffusers' import.

    Args:
        place: see `load_module`.
        name: a class of `PART_CLASSES`.
        hashes: see `load_module`.
        scales: see `load_module`.
        row: see `load_module`.

    Raises:
        ModelError: see `wsisr.models.from_pretrained`.
    """
    module = light_network(name, _read_config(place))
    if module is None:
        part = next(part for part, classes in PART_CLASSES.items() if name in classes)
        return load_module(place, network_class(part, name), hashes, scales, row)
    return _filled(module, place, hashes, scales, row)


def _filled(
    module: nn.Module, place: Path, hashes: dict[str, str] | None, scales: int, row: int | None
) -> nn.Module:
    fill(module, fold_scale(load_state(place, hashes), scales, row, str(place)), str(place))
    return module


def _read_config(place: Path) -> Mapping[str, Any]:
    """Reads a config.json; `load_module` says what is wrong with one that cannot be read."""
    try:
        return read_config(place)
    except ModelError:
        return {}


def load_restoration(place: Path) -> nn.Module:
    """Loads a stage 1 of the class that its config.json names, in float32.

    Args:
        place: the folder; without a class's name in it the network is a `SwinIR`.

    Raises:
        ModelError: see `load_module`.
    """
    classes = PART_CLASSES["restoration"]
    name = read_config(place).get("_class_name", "SwinIR")
    if name not in tuple(classes):
        raise ModelError(f"{place / 'config.json'}: a {name!r}, not {', '.join(classes)}")
    return load_module(place, network_class("restoration", name))


def empty_module(place: Path, cls: type[nn.Module]) -> nn.Module:
    """Makes a network as its folder's config.json describes it, its parameters not allocated.

    Args:
        place: the folder.
        cls: the network's class.

    Raises:
        ModelError: no config.json, or one that does not fit the class.
    """
    config = read_config(place)
    try:
        return make_module(cls, config)
    except Exception as error:  # the networks' constructors raise errors of any kind
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ModelError(f"{place / 'config.json'}: not a {cls.__name__} ({reason})") from error


def make_module(cls: type[nn.Module], config: Mapping[str, Any]) -> nn.Module:
    """Makes a network of class `cls`, its parameters not allocated (on the meta device)."""
    from accelerate import init_empty_weights

    # what diffusers saves beside a class's own arguments is of no use to it
    own = {k: v for k, v in config.items() if k in inspect.signature(cls.__init__).parameters}
    # random weights would only be overwritten, at the price of seconds and of twice the memory
    with init_empty_weights(include_buffers=False):
        return cast(nn.Module, cast(Any, cls).from_config(own))


def fill(module: nn.Module, state: Mapping[str, Tensor], place: str) -> None:
    """Makes `state` the weights of a network, which then shares its memory.

    Args:
        module: the network.
        state: name -> tensor, neither more nor less than the network has.
        place: what the text of an error begins with.

    Raises:
        ModelError: a tensor is missing, unknown or of the wrong shape.
    """
    if type(module).__name__ == "AutoencoderKL":
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
                f"{place}: {key} has shape {tuple(value.shape)}, the network needs "
                f"{tuple(own[key].shape)}"
            )
    module.load_state_dict(state, assign=True)


def _current_name(key: str) -> str:
    """Renames the projections of an autoencoder's attention, which diffusers called otherwise."""
    for old, new in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    ):
        key = key.replace(f".attentions.0.{old}.", f".attentions.0.{new}.")
    return key
