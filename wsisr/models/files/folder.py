"""Models as folders: a model.json and one sub-folder a part, safetensors only.

    model.json
    restoration/  config.json, *.safetensors     stage 1
    vae/          config.json, *.safetensors     AutoencoderKL, AutoencoderTiny, Guided…
    unet/         config.json, *.safetensors
    controlnet/   config.json, *.safetensors
    prompt/       prompt.safetensors             the blank prompt's embedding

Networks may be told the scale, see `wsisr.models.networks.lora`.

A folder with `restoration` alone is a stage-1 model. One with `restoration` and `controlnet` takes
what it lacks of `unet`, `vae` and `prompt` from its base, a published Stable Diffusion 2.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wsisr.errors import ModelError, UsageError
from wsisr.files import write_atomic
from wsisr.models.dualstage import DualStage, SecondStage
from wsisr.models.files.base import DEFAULT_BASE, Base, load_base
from wsisr.models.files.card import FORMAT, VERSION, ModelCard, read_card
from wsisr.models.files.checkpoint import SUFFIXES
from wsisr.models.files.parts import (
    PART_CLASSES,
    SECOND_STAGE,
    empty_module,
    load_module,
    load_state,
)
from wsisr.models.networks import ControllableDiffusion, LatentControlNet, Vae
from wsisr.models.sampling import make_schedule
from wsisr.models.settings import Settings, usual_precision
from wsisr.models.windows import Bicubic, Upscaler

SHIPPED = {name: Path(__file__).parents[1] / "weights" / name for name in ("tiny", "plain")}
CONFIGS = {"sd21": Path(__file__).parents[1] / "configs" / "sd21"}
"""Models as descriptions without weights: to be trained, or filled from a checkpoint."""

DEFAULT_MODEL = "tiny"


def load_upscaler(
    name: str = DEFAULT_MODEL,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    scale: float | None = None,
) -> Upscaler:
    """Load what `--model` names.

    Args:
        name: `tiny`, `plain` (the baseline without diffusion), `restore` (stage 1 of `tiny`),
            `bicubic`, a model folder, or a file with the weights of a network that spandrel knows.
        device: where to put it.
        settings: fields of `Settings` that override the model's own.
        base: where a model without UNet and autoencoder takes them from; None is its own base.
        scale: factor it is to be used at; some models have settings of their own for some, and
            weights, too (`wsisr.models.networks.lora`).

    Raises:
        ModelError: no such model, or a broken one.
        UsageError: a setting out of range.
    """
    overrides = dict(settings or {})
    is_file = Path(name).is_file() and Path(name).suffix in SUFFIXES
    if overrides.get("compile") and (name == "bicubic" or is_file):
        raise UsageError(f"--compile: --model {name} has no blocks to compile; leave it out")
    if name == "bicubic":
        Settings(**overrides)
        return Bicubic()
    if name == "restore":
        return from_pretrained(
            SHIPPED[DEFAULT_MODEL],
            device=device,
            settings=overrides | {"fidelity": 1.0},
            scale=scale,
        )
    if is_file:
        # only here: spandrel is optional
        from wsisr.models.published import load_network

        return load_network(Path(name), device=device, settings=overrides)
    return from_pretrained(
        find_folder(name), device=device, settings=overrides, base=base, scale=scale
    )


def build_parts(config: str) -> dict[str, nn.Module]:
    """The networks of a description in `CONFIGS`, by part, their parameters not allocated.

    Raises:
        ModelError: no such description.
    """
    if config not in CONFIGS:
        raise ModelError(f"{config}: no such configuration; there is {', '.join(CONFIGS)}")
    folder = CONFIGS[config]
    parts = read_card(folder).parts
    return {part: empty_module(folder / part, PART_CLASSES[part][parts[part]]) for part in parts}


def find_folder(name: str) -> Path:
    """Where a model that ships, or a folder, is. Raises ModelError if there is none."""
    if name in CONFIGS and not Path(name).exists():
        raise ModelError(
            f"--model {name}: a description without weights; convert a published checkpoint "
            "(wsisr models convert CKPT OUT) or train one, and give its folder"
        )
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
    base: str | None = None,
    scale: float | None = None,
) -> DualStage:
    """Load a model folder; `base` and `scale` as in `load_upscaler`.

    Raises:
        ModelError: names the file or part that is missing, of the wrong shape, not finite, of an
            unknown class or pickled.
        UsageError: a setting out of range.
    """
    card = read_card(folder)
    overrides = (
        {"precision": usual_precision(torch.device(device))}
        | card.sampling_at(scale)
        | dict(settings or {})
    )
    known = {f.name for f in fields(Settings)}
    if unknown := sorted(set(overrides) - known):
        names = ", ".join(unknown).encode("unicode_escape").decode()  # they may hold a line's end
        raise ModelError(f"{folder / 'model.json'}: unknown setting {names}")
    try:
        chosen = Settings(**overrides)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / 'model.json'}: `sampling` or `at` has a value of a wrong kind ({error})"
        ) from error
    if not any(part in card.parts for part in SECOND_STAGE):
        chosen = replace(chosen, fidelity=1.0)
    hashes: dict[str, str] = {}
    identity: dict[str, Any] = {"model": card.name, "weights_sha256": hashes}
    nearest = card.nearest(scale)
    row = None if nearest is None else card.scales.index(nearest)
    restoration = _load_part(folder, "restoration", card, hashes, row)
    second = None
    if chosen.fidelity < 1:
        second, base = _second_stage(folder, card, base, hashes, row)
        if base is not None:
            identity["base"] = base
    return DualStage(restoration, second, chosen, identity, torch.device(device))


def save_pretrained(
    folder: Path, card: ModelCard, parts: Mapping[str, nn.Module], prompt: Tensor | None = None
) -> None:
    """Write a model folder; floating-point weights keep the type they have in `parts`.

    A model that is there is none from the first byte to the last: its model.json goes first and
    the new one comes last, so what an error or a kill leaves behind cannot be loaded.

    Raises:
        OSError: it cannot be written, for instance on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    try:
        for part, module in parts.items():
            # diffusers only logs that a file is in the way
            (folder / part).mkdir(exist_ok=True)
            cast(Any, module).save_pretrained(folder / part, safe_serialization=True)
        if prompt is not None:
            (folder / "prompt").mkdir(exist_ok=True)
            save_file({"prompt": prompt.contiguous()}, folder / "prompt" / "prompt.safetensors")
    except SafetensorError as error:  # its way to say that a disk is full
        raise OSError(str(error)) from error
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": card.name,
        "scales": list(card.scales),
        "parts": dict(card.parts),
        "schedule": dict(card.schedule),
        "sampling": dict(card.sampling),
    }
    if card.base is not None:
        content["base"] = card.base
    if card.at:
        content["at"] = {f"{scale:g}": dict(own) for scale, own in card.at.items()}
    write_atomic(folder / "model.json", json.dumps(content, indent=2) + "\n")


def _load_part(
    folder: Path, part: str, card: ModelCard, hashes: dict[str, str], row: int | None
) -> nn.Module:
    if part not in card.parts:
        raise ModelError(f"{folder / 'model.json'}: lists no part `{part}`")
    return load_module(folder / part, part_class(folder, card, part), hashes, len(card.scales), row)


def part_class(folder: Path, card: ModelCard, part: str) -> type[nn.Module]:
    """The class that a model's card names for a part. Raises ModelError if that is none."""
    classes, name = PART_CLASSES.get(part, {}), card.parts[part]
    if not classes:
        raise ModelError(f"{folder / 'model.json'}: {part} is no part of a model")
    if name not in classes:
        raise ModelError(f"{folder / 'model.json'}: {part} is a {name!r}, not {', '.join(classes)}")
    return classes[name]


def _second_stage(
    folder: Path, card: ModelCard, base: str | None, hashes: dict[str, str], row: int | None
) -> tuple[SecondStage, str | None]:
    """Stage 2 for the scale `row`, and the base that parts of it were taken from."""
    own = [part for part in SECOND_STAGE if part in card.parts]
    parts = {part: _load_part(folder, part, card, hashes, row) for part in own}
    prompt = None
    if (folder / "prompt").is_dir():
        prompt = load_state(folder / "prompt", hashes).get("prompt")
    lacking = {part for part in SECOND_STAGE if part not in own}
    if prompt is None and lacking:
        lacking.add("prompt")
    used = None
    if lacking:
        used = base or card.base or DEFAULT_BASE
        taken = load_base(used, lacking)
        _check_prediction(folder, card, taken, used)
        parts |= taken.modules
        prompt = taken.prompt if prompt is None else prompt
        hashes |= {f"base/{file.removeprefix('base/')}": h for file, h in taken.hashes.items()}
    unet = cast(UNet2DConditionModel, parts["unet"])
    controlnet = cast(LatentControlNet, parts["controlnet"])
    vae = cast(Vae, parts["vae"])
    check_fit(folder, vae, unet, controlnet, prompt)
    try:
        schedule = make_schedule(**card.schedule)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{folder / 'model.json'}: schedule: {error}") from error
    diffusion = ControllableDiffusion(unet, controlnet, cast(Tensor, prompt))
    return SecondStage(vae, diffusion, schedule), used


def _check_prediction(folder: Path, card: ModelCard, base: Base, name: str) -> None:
    """Refuse a UNet that predicts something else than the ControlNet was trained with."""
    wanted = card.schedule.get("prediction", "epsilon")
    if base.prediction not in (None, wanted):
        raise ModelError(
            f"--base {name}: its UNet predicts {base.prediction}, the model {folder} was trained "
            f"to predict {wanted}; give the base it was trained on as --base"
        )


def check_fit(
    folder: Path,
    vae: Vae,
    unet: UNet2DConditionModel,
    controlnet: LatentControlNet,
    prompt: Tensor | None,
) -> None:
    """Raise ModelError unless the parts of stage 2 fit together."""
    channels = vae.config.latent_channels
    if unet.config.in_channels != channels or controlnet.config.in_channels != 2 * channels:
        raise ModelError(
            f"{folder}: the autoencoder has {channels} latent channels, unet takes "
            f"{unet.config.in_channels}, controlnet {controlnet.config.in_channels} "
            f"(needs {channels} and {2 * channels})"
        )
    if tuple(unet.config.block_out_channels) != tuple(controlnet.config.block_out_channels):
        raise ModelError(
            f"{folder}: unet has {tuple(unet.config.block_out_channels)} channels, controlnet "
            f"{tuple(controlnet.config.block_out_channels)}; the base is not the one it steers"
        )
    check_prompt(folder, prompt, unet.config.cross_attention_dim)


def check_prompt(folder: Path, prompt: Tensor | None, width: int) -> None:
    """Raise ModelError unless a prompt has tokens of that many numbers."""
    if prompt is None or prompt.ndim != 2 or prompt.shape[1] != width:
        raise ModelError(f"{folder / 'prompt'}: needs a tensor `prompt` of shape (tokens, {width})")


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
