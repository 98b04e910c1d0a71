"""From a model's name to a model that runs: `load_upscaler` and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.models.description import choose_settings, find_model
from wsisr.models.files import (
    DEFAULT_MODEL,
    SECOND_STAGE,
    ModelCard,
    check_fit,
    class_name,
    load_light,
    load_module,
    load_state,
    network_class,
    read_card,
)
from wsisr.models.sampling import make_schedule
from wsisr.models.settings import Settings
from wsisr.models.windows import Bicubic, Upscaler

if TYPE_CHECKING:
    from wsisr.models.dualstage import DualStage
    from wsisr.models.pipeline import SecondStage
    from wsisr.models.placement import Placement


def load_upscaler(
    name: str = DEFAULT_MODEL,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    scale: float | None = None,
    meant_for: str | torch.device | None = None,
    placement: Placement | None = None,
) -> Upscaler:
    """Loads what the option `model` names.

    Args:
        name: `tiny`, `plain` (the baseline without diffusion), `restore` (stage 1 of `tiny`),
            `bicubic`, a model folder, or a file with the weights of a network that spandrel knows.
        device: where to put it.
        settings: fields of `Settings` that override the model's own.
        base: where a model without UNet and autoencoder takes them from; None is its own base.
        scale: factor it is to be used at; some models have settings of their own for some, and
            weights, too (`wsisr.models.networks.lora`).
        meant_for: device whose usual precision counts where a model is only asked what it is; None
            is `device`.
        placement: where the weights are kept; None decides by the memory of the device.

    Returns:
        The model on its device.

    Raises:
        ModelError: no such model, or a broken one.
        UsageError: a setting out of range.
    """
    source = find_model(name, settings)
    if source.file is not None:
        # only here: spandrel is optional
        from wsisr.models.published import load_network

        return load_network(source.file, device=device, settings=source.overrides)
    if source.folder is None:
        Settings(**source.overrides)
        return Bicubic()
    return from_pretrained(
        source.folder,
        device=device,
        settings=source.overrides,
        base=base,
        scale=scale,
        meant_for=meant_for,
        placement=placement,
        light=True,
    )


def from_pretrained(
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    scale: float | None = None,
    meant_for: str | torch.device | None = None,
    placement: Placement | None = None,
    light: bool = False,
) -> DualStage:
    """Loads a model folder.

    Args:
        folder: with a model.json.
        device: see `load_upscaler`.
        settings: see `load_upscaler`.
        base: see `load_upscaler`.
        scale: see `load_upscaler`.
        meant_for: see `load_upscaler`.
        placement: see `load_upscaler`.
        light: whether networks come in their light forms (`wsisr.models.light`), which run as the
            others do and are loaded sooner, but are not trained or saved.

    Returns:
        The model on its device.

    Raises:
        ModelError: names the file or part that is missing, of the wrong shape, not finite, of an
            unknown class or pickled.
        UsageError: a setting that is unknown or out of range.
    """
    # only here: bicubic does without networks
    from wsisr.models.dualstage import DualStage

    card = read_card(folder)
    chosen = choose_settings(card, settings or {}, str(meant_for or device), scale)
    nearest = card.nearest(scale)
    row = None if nearest is None else card.scales.index(nearest)
    source = _Source(folder, card, row, light)
    identity: dict[str, Any] = {"model": card.name, "weights_sha256": source.hashes}
    restoration = source.load("restoration")
    second = None
    if chosen.fidelity < 1:
        second, used = _load_second_stage(source, base)
        if used is not None:
            # of a path the name alone: folders are private
            identity["base"] = Path(used).name if Path(used).exists() else used
    return DualStage(restoration, second, chosen, identity, torch.device(device), placement)


@dataclass(frozen=True)
class _Source:
    """A folder that parts are loaded from.

    Attributes:
        folder: of the model.
        card: its model.json.
        row: index of the scale it is loaded for; None for none.
        light: see `from_pretrained`.
        hashes: file -> SHA-256 of what was loaded so far.
    """

    folder: Path
    card: ModelCard
    row: int | None
    light: bool
    hashes: dict[str, str] = field(default_factory=dict)

    def load(self, part: str) -> nn.Module:
        """Loads one of the parts that the card lists."""
        name = class_name(self.folder, self.card.parts, part)
        place, scales = self.folder / part, len(self.card.scales)
        if self.light:
            return load_light(place, name, self.hashes, scales, self.row)
        return load_module(place, network_class(part, name), self.hashes, scales, self.row)


def _load_second_stage(source: _Source, base: str | None) -> tuple[SecondStage, str | None]:
    """Loads stage 2, and names the base that parts of it were taken from, if any were."""
    # only here: models of stage 1 alone do without diffusers' largest networks
    from wsisr.models.networks import ControllableDiffusion
    from wsisr.models.pipeline import SecondStage

    folder, card = source.folder, source.card
    parts = {part: source.load(part) for part in SECOND_STAGE if part in card.parts}
    prompt = None
    if (folder / "prompt").is_dir():
        prompt = load_state(folder / "prompt", source.hashes).get("prompt")
    lacking = {part for part in SECOND_STAGE if part not in parts}
    used = None
    if lacking:
        wanted = lacking | ({"prompt"} if prompt is None else set())
        used, modules, taken = _take_from_base(source, base, wanted)
        parts |= modules
        prompt = taken if prompt is None else prompt
    vae, unet, controlnet = (cast(Any, parts[part]) for part in SECOND_STAGE)
    check_fit(folder, vae, unet, controlnet, prompt)
    schedule = make_schedule(**card.schedule)
    diffusion = ControllableDiffusion(unet, controlnet, cast(Tensor, prompt))
    return SecondStage(vae, diffusion, schedule), used


def _take_from_base(
    source: _Source, base: str | None, wanted: set[str]
) -> tuple[str, dict[str, nn.Module], Tensor | None]:
    """Takes parts from a base that predicts what the ControlNet was trained with.

    Args:
        source: the model's folder; gets the base's hashes.
        base: given by the caller; None for the model's own.
        wanted: of `unet`, `vae` and `prompt`.

    Returns:
        The base's name, its networks by part, and the blank prompt if it was wanted.
    """
    from wsisr.models.published import DEFAULT_BASE, load_base

    name = base or source.card.base or DEFAULT_BASE
    # a model's card is another's word, and downloads nothing
    taken = load_base(name, wanted, download=base is not None)
    prediction = source.card.schedule.get("prediction", "epsilon")
    if taken.prediction not in (None, prediction):
        raise ModelError(
            f"<base> {name}: its UNet predicts {taken.prediction}, the model {source.folder} was "
            f"trained to predict {prediction}; give the base it was trained on as <base>"
        )
    hashes = {f"base/{file.removeprefix('base/')}": h for file, h in taken.hashes.items()}
    source.hashes.update(hashes)
    return name, taken.modules, taken.prompt
