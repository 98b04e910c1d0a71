"""Models as folders: a model.json and one sub-folder a part, safetensors only.

    model.json
    restoration/  config.json, *.safetensors     stage 1
    vae/          config.json, *.safetensors     AutoencoderKL or AutoencoderTiny
    unet/         config.json, *.safetensors
    controlnet/   config.json, *.safetensors
    prompt/       prompt.safetensors             the blank prompt's embedding

A folder with `restoration` alone is a stage-1 model. Weights are loaded strictly: a missing,
unexpected or wrong-shaped tensor is an error, never a randomly initialised layer.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wsisr.errors import ModelError, UsageError
from wsisr.models.diffusion import ControllableDiffusion, LatentControlNet, Vae
from wsisr.models.dualstage import DualStage, SecondStage, Settings
from wsisr.models.restoration import SwinIR
from wsisr.models.sampling import make_schedule
from wsisr.models.windows import Bicubic, Upscaler

FORMAT = "wsisr-model"
VERSION = 1
SHIPPED = {"tiny": Path(__file__).parent / "weights" / "tiny"}
DEFAULT_MODEL = "tiny"
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")

PART_CLASSES: dict[str, dict[str, type[nn.Module]]] = {
    "restoration": {"SwinIR": SwinIR},
    "vae": {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny},
    "unet": {"UNet2DConditionModel": UNet2DConditionModel},
    "controlnet": {"LatentControlNet": LatentControlNet},
}
SECOND_STAGE = ("vae", "unet", "controlnet")


@dataclass(frozen=True)
class ModelCard:
    """The contents of model.json.

    Attributes:
        name: what the model is called in provenance records.
        parts: part -> class name.
        scales: factors it was trained for.
        schedule: arguments of `make_schedule`.
        sampling: the model's own values of `Settings` fields.
    """

    name: str
    parts: Mapping[str, str]
    scales: tuple[float, ...] = ()
    schedule: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)


def load_upscaler(
    name: str = DEFAULT_MODEL,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> Upscaler:
    """Load what `--model` names.

    Args:
        name: `tiny`, `bicubic`, `restore` (stage 1 of the shipped model) or a model folder.
        device: where to put it.
        settings: fields of `Settings` that override the model's own.

    Raises:
        ModelError: no such model, or a broken one.
        UsageError: a setting out of range.
    """
    overrides = dict(settings or {})
    if name == "bicubic":
        Settings(**overrides)
        return Bicubic()
    if name == "restore":
        return from_pretrained(
            SHIPPED[DEFAULT_MODEL], device=device, settings=overrides | {"fidelity": 1.0}
        )
    return from_pretrained(find_folder(name), device=device, settings=overrides)


def find_folder(name: str) -> Path:
    """Where a model that ships, or a folder, is. Raises ModelError if there is none."""
    folder = SHIPPED.get(name, Path(name))
    if not folder.exists():
        known = ", ".join((*SHIPPED, "restore", "bicubic"))
        raise ModelError(f"--model {name}: neither a known model ({known}) nor an existing folder")
    return folder


def from_pretrained(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> DualStage:
    """Load a model folder.

    Raises:
        ModelError: names the file or part that is missing, of the wrong shape, not finite, of an
            unknown class or pickled.
        UsageError: a setting out of range.
    """
    card = read_card(folder)
    # single precision would leave a GPU's matrix units idle; on most CPUs bf16 is slower
    usual = "bf16" if torch.device(device).type == "cuda" else "fp32"
    overrides = {"precision": usual} | dict(card.sampling) | dict(settings or {})
    known = {f.name for f in fields(Settings)}
    if unknown := sorted(set(overrides) - known):
        raise ModelError(f"{folder / 'model.json'}: unknown setting {', '.join(unknown)}")
    chosen = Settings(**overrides)
    if not any(part in card.parts for part in SECOND_STAGE):
        chosen = replace(chosen, fidelity=1.0)
    hashes: dict[str, str] = {}
    wanted = ["restoration"] if chosen.fidelity == 1 else ["restoration", *SECOND_STAGE]
    loaded = {part: _load_part(folder, part, card, hashes) for part in wanted}
    second = None
    if chosen.fidelity < 1:
        second = _second_stage(folder, loaded, card, hashes)
    identity = {"model": card.name, "weights_sha256": hashes}
    restoration = cast(SwinIR, loaded["restoration"])
    return DualStage(restoration, second, chosen, identity, torch.device(device))


def save_pretrained(
    folder: Path, card: ModelCard, parts: Mapping[str, nn.Module], prompt: Tensor | None = None
) -> None:
    """Write a model folder; floating-point weights keep the type they have in `parts`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, module in parts.items():
        cast(Any, module).save_pretrained(folder / part, safe_serialization=True)
    if prompt is not None:
        (folder / "prompt").mkdir(exist_ok=True)
        save_file({"prompt": prompt.contiguous()}, folder / "prompt" / "prompt.safetensors")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": card.name,
        "scales": list(card.scales),
        "parts": dict(card.parts),
        "schedule": dict(card.schedule),
        "sampling": dict(card.sampling),
    }
    (folder / "model.json").write_text(json.dumps(content, indent=2) + "\n")


def read_card(folder: Path) -> ModelCard:
    """Read and check model.json.

    Raises:
        ModelError: it is missing, no JSON, of another format or version, or lacks a part.
    """
    file = folder / "model.json"
    if not folder.is_dir():
        kind = (
            "pickled weights are refused, since loading them can run code"
            if (folder.suffix in PICKLES)
            else "a model is a folder with a model.json"
        )
        raise ModelError(f"{folder}: {kind}")
    if not file.is_file():
        raise ModelError(f"{folder}: no model.json in it; not a wsisr model folder")
    try:
        content = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{file}: not a {FORMAT} description")
    if content.get("version") != VERSION:
        raise ModelError(f"{file}: version {content.get('version')!r}, this wsisr reads {VERSION}")
    parts = content.get("parts")
    if not isinstance(parts, dict) or "restoration" not in parts:
        raise ModelError(f"{file}: lists no part `restoration`")
    present = [part for part in SECOND_STAGE if part in parts]
    if present and len(present) < len(SECOND_STAGE):
        missing = sorted(set(SECOND_STAGE) - set(present))
        raise ModelError(f"{file}: stage 2 lacks {', '.join(missing)}")
    for key in ("schedule", "sampling"):
        if not isinstance(content.get(key, {}), dict):
            raise ModelError(f"{file}: `{key}` is not an object")
    return ModelCard(
        str(content.get("name", folder.name)),
        parts,
        tuple(content.get("scales", ())),
        content.get("schedule", {}),
        content.get("sampling", {}),
    )


def load_state(folder: Path, hashes: dict[str, str] | None = None) -> dict[str, Tensor]:
    """All tensors of a part's safetensors files, float32 on the CPU.

    Raises:
        ModelError: no such file, an unreadable one, or weights that are not finite.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [f.name for f in folder.glob("*") if f.suffix in PICKLES]
        if pickled:
            raise ModelError(
                f"{folder / pickled[0]}: pickled weights are refused, since loading them can run "
                "code; convert them to safetensors"
            )
        raise ModelError(f"{folder}: no *.safetensors weights in it")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: not a readable safetensors file ({error})") from error
        state |= tensors
        if hashes is not None:
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
            hashes[f"{folder.name}/{file.name}"] = digest
    for key, value in state.items():
        if value.is_floating_point():
            if not torch.isfinite(value).all():
                raise ModelError(f"{folder}: weights of {key} are not finite (NaN or infinite)")
            state[key] = value.float()
    return state


def load_module(
    place: Path, cls: type[nn.Module], hashes: dict[str, str] | None = None
) -> nn.Module:
    """A network of class `cls` from a folder with config.json and safetensors, in float32.

    Raises:
        ModelError: see `from_pretrained`.
    """
    if not (place / "config.json").is_file():
        raise ModelError(f"{place}: part missing (no config.json)")
    try:
        content = json.loads((place / "config.json").read_text())
        # what diffusers saves beside a class's own arguments is of no use to it
        own = {k: v for k, v in content.items() if k in inspect.signature(cls.__init__).parameters}
        module = cast(nn.Module, cast(Any, cls).from_config(own))
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ModelError(f"{place / 'config.json'}: not a {cls.__name__} ({error})") from error
    state = load_state(place, hashes)
    _check(module, state, place)
    module.load_state_dict(state)
    return module


def _load_part(folder: Path, part: str, card: ModelCard, hashes: dict[str, str]) -> nn.Module:
    if part not in card.parts:
        raise ModelError(f"{folder / 'model.json'}: lists no part `{part}`")
    place, class_name = folder / part, card.parts[part]
    if class_name not in PART_CLASSES[part]:
        allowed = ", ".join(PART_CLASSES[part])
        raise ModelError(f"{folder / 'model.json'}: {part} is a {class_name!r}, not {allowed}")
    return load_module(place, PART_CLASSES[part][class_name], hashes)


def _check(module: nn.Module, state: Mapping[str, Tensor], place: Path) -> None:
    own = module.state_dict()
    if missing := sorted(set(own) - set(state)):
        raise ModelError(f"{place}: {len(missing)} weights missing, the first is {missing[0]}")
    if extra := sorted(set(state) - set(own)):
        raise ModelError(f"{place}: {len(extra)} unknown weights, the first is {extra[0]}")
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{place}: {key} has shape {tuple(value.shape)}, its config.json asks for "
                f"{tuple(own[key].shape)}"
            )


def _second_stage(
    folder: Path, loaded: Mapping[str, nn.Module], card: ModelCard, hashes: dict[str, str]
) -> SecondStage:
    unet = cast(UNet2DConditionModel, loaded["unet"])
    controlnet = cast(LatentControlNet, loaded["controlnet"])
    vae = cast(Vae, loaded["vae"])
    channels = vae.config.latent_channels
    if unet.config.in_channels != channels or controlnet.config.in_channels != 2 * channels:
        raise ModelError(
            f"{folder}: the autoencoder has {channels} latent channels, unet takes "
            f"{unet.config.in_channels}, controlnet {controlnet.config.in_channels} "
            f"(needs {channels} and {2 * channels})"
        )
    prompt = load_state(folder / "prompt", hashes).get("prompt")
    width = unet.config.cross_attention_dim
    if prompt is None or prompt.ndim != 2 or prompt.shape[1] != width:
        raise ModelError(f"{folder / 'prompt'}: needs a tensor `prompt` of shape (tokens, {width})")
    try:
        schedule = make_schedule(**card.schedule)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'model.json'}: schedule: {error}") from error
    return SecondStage(vae, ControllableDiffusion(unet, controlnet, prompt), schedule)


def pick_device(device: str | None) -> torch.device:
    """The device asked for, by default the first GPU and else the CPU.

    Raises:
        UsageError: no such device on this machine.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise UsageError(f"--device {device}: not usable on this machine ({line})") from error
    return chosen
