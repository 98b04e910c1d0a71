"""What a model is and how it is run, told without its weights in memory.

Only the names, sizes and hashes of its files are read, so that plans are made and mistakes told
without waiting for torch. `load_upscaler` loads what is described here, and describes itself alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from wsisr.errors import OptionError, UsageError
from wsisr.files import file_sha256
from wsisr.models.devices import usual_precision
from wsisr.models.files import (
    CHECKPOINT_SUFFIXES,
    DEFAULT_MODEL,
    SECOND_STAGE,
    ModelCard,
    check_config,
    class_name,
    find_folder,
    read_card,
    weight_files,
)
from wsisr.models.settings import Settings

BICUBIC = "bicubic"
RESTORE = "restore"


@dataclass(frozen=True)
class ModelDescription:
    """A model as it is set.

    Attributes:
        facts: what makes the pixels, in plain JSON values, as `Upscaler.describe` gives it.
        stochastic: whether the seed makes a difference.
    """

    facts: Mapping[str, Any]
    stochastic: bool = False


@dataclass(frozen=True)
class ModelSource:
    """What the option `model` names.

    Attributes:
        name: `bicubic`, or the folder or file.
        folder: of the model; None for `bicubic` and for a file.
        file: with the weights of a single network; None else.
        overrides: fields of `Settings` that override the model's own.
    """

    name: str
    folder: Path | None = None
    file: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)


def find_model(name: str, settings: Mapping[str, Any] | None = None) -> ModelSource:
    """Finds what the option `model` names.

    Args:
        name: see `load_upscaler`.
        settings: see `load_upscaler`.

    Raises:
        ModelError: there is no such model.
        OptionError: it cannot be compiled.
    """
    overrides = dict(settings or {})
    is_file = Path(name).is_file() and Path(name).suffix in CHECKPOINT_SUFFIXES
    if overrides.get("compile") and (name == BICUBIC or is_file):
        raise OptionError("compile", None, f"<model> {name} has no blocks to compile; leave it out")
    if name == BICUBIC:
        return ModelSource(name, overrides=overrides)
    if is_file:
        return ModelSource(name, file=Path(name), overrides=overrides)
    if name == RESTORE:
        name, overrides = DEFAULT_MODEL, overrides | {"fidelity": 1.0}
    return ModelSource(name, folder=find_folder(name), overrides=overrides)


def describe_upscaler(
    name: str = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    settings: Mapping[str, Any] | None = None,
    base: str | None = None,
    scale: float | None = None,
) -> ModelDescription:
    """Describes what `load_upscaler` loads.

    A single network, whose architecture its weights alone tell, and a model that takes parts from
    a base are loaded for it.

    Args:
        name: see `load_upscaler`.
        device: name of the device that the model is meant for.
        settings: see `load_upscaler`.
        base: see `load_upscaler`.
        scale: see `load_upscaler`.

    Raises:
        ModelError: no such model, or one that lacks files.
        UsageError: a setting out of range.
    """
    source = find_model(name, settings)
    if source.folder is None and source.file is None:
        Settings(**source.overrides)
        return ModelDescription({"model": BICUBIC})
    if source.folder is None:
        Settings(**source.overrides)
        return _loaded(name, device, settings, base, scale)
    card = read_card(source.folder)
    chosen = choose_settings(card, source.overrides, device, scale)
    parts = used_parts(card, chosen)
    for part in parts:
        class_name(source.folder, card.parts, part)
        check_config(source.folder / part)
    two_stages = len(parts) > 1
    if two_stages and not (set(SECOND_STAGE) <= set(parts) and (source.folder / "prompt").is_dir()):
        return _loaded(name, device, settings, base, scale)
    places = [source.folder / part for part in (*parts, *(["prompt"] if two_stages else []))]
    hashes = {
        f"{place.name}/{file.name}": file_sha256(file)
        for place in places
        for file in weight_files(place)
    }
    facts = {"model": card.name, "weights_sha256": hashes, "settings": asdict(chosen)}
    return ModelDescription(facts, two_stages and chosen.fidelity < 1)


def choose_settings(
    card: ModelCard, overrides: Mapping[str, Any], device: str, scale: float | None
) -> Settings:
    """Combines the device's usual precision, the model's own settings and the caller's.

    Args:
        card: of the model.
        overrides: the caller's.
        device: a name of torch's.
        scale: factor that the model is used at.

    Raises:
        UsageError: a setting that is unknown or out of range.
    """
    if unknown := sorted(set(overrides) - {f.name for f in fields(Settings)}):
        raise UsageError(f"unknown setting {', '.join(unknown)}")
    given = {**card.sampling_at(scale), **overrides}
    if "precision" not in given:
        given["precision"] = usual_precision(device)
    try:
        chosen = Settings(**given)
    except TypeError as error:
        raise UsageError(f"a setting has a value of the wrong type ({error})") from error
    if not any(part in card.parts for part in SECOND_STAGE):
        return replace(chosen, fidelity=1.0)
    return chosen


def used_parts(card: ModelCard, settings: Settings) -> tuple[str, ...]:
    """Lists the parts of a card that run with some settings, in the order of the run.

    Args:
        card: of the model.
        settings: with a fidelity of 1 stage 1 runs alone.
    """
    second = SECOND_STAGE if settings.fidelity < 1 else ()
    return ("restoration", *(part for part in second if part in card.parts))


def _loaded(
    name: str,
    device: str,
    settings: Mapping[str, Any] | None,
    base: str | None,
    scale: float | None,
) -> ModelDescription:
    """Loads a model to ask what it is; on the CPU, for preparing a run touches no GPU."""
    from wsisr.models.loading import load_upscaler

    model = load_upscaler(name, settings=settings, base=base, scale=scale, meant_for=device)
    return ModelDescription(model.describe(), getattr(model, "stochastic", False))
