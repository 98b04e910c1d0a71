"""model.json, the description of a model folder: what it may hold, read and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from wsisr.errors import ModelError, OptionError
from wsisr.models.files.layout import PART_CLASSES, PICKLES
from wsisr.models.settings import Settings
from wsisr.parsing import MalformedError, read_json

FORMAT = "wsisr-model"
VERSION = 1
MAX_NAME = 200
MAX_SCALES = 64
LARGEST_BLOCK = 8192
STRICT = ConfigDict(strict=True, extra="forbid")

_SETTING_TYPES = {name: TypeAdapter(kind) for name, kind in get_type_hints(Settings).items()}


class _Schedule(BaseModel):
    """Arguments of `make_schedule` with their types and ranges."""

    model_config = STRICT

    beta_start: float = Field(0.00085, gt=0, lt=1)
    beta_end: float = Field(0.012, gt=0, lt=1)
    steps: int = Field(1000, ge=1000, le=100_000)
    prediction: Literal["epsilon", "v"] = "epsilon"
    zero_terminal_snr: bool = False


def check_schedule(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Checks arguments of `make_schedule` and gives them back.

    Args:
        values: argument -> value, not necessarily of all arguments.

    Raises:
        ValueError: an unknown argument, or a value of the wrong type or out of its range.
    """
    try:
        _Schedule.model_validate(values)
    except ValidationError as error:
        raise ValueError(_first_fault(error)) from error
    return values


def check_settings(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Checks values of fields of `Settings` and gives them back.

    Args:
        values: field -> value, not necessarily of all fields.

    Raises:
        ValueError: an unknown field, or a value of the wrong type or out of its range.
    """
    if unknown := sorted(set(values) - set(_SETTING_TYPES)):
        raise ValueError(f"unknown setting {', '.join(unknown)}")
    for name, value in values.items():
        try:
            _SETTING_TYPES[name].validate_python(value, strict=True)
        except ValidationError as error:
            raise ValueError(f"`{name}` cannot be {repr(value)[:MAX_NAME]}") from error
    joint = values.get("joint")
    if joint is not None and not 0 <= joint[1] < joint[0] <= LARGEST_BLOCK:
        raise ValueError(f"`joint` cannot be {joint!r}: a side and a smaller overlap are needed")
    try:
        Settings(**values)
    except OptionError as error:
        raise ValueError(f"`{error.option}` cannot be {error.value!r}: {error.rule}") from error
    return values


def check_scale(value: object) -> float:
    """Checks one scale and gives it back; whole numbers stay whole.

    Args:
        value: what stands in the card.

    Raises:
        ValueError: no number above 0, or one beyond reason.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1000:
        return value
    raise ValueError("must be a number above 0 and at most 1000")


Scale = Annotated[float, PlainValidator(check_scale)]
ScaleKey = Annotated[float, Field(strict=False)]
"""A scale as a key; JSON's keys are text."""
SettingValues = Annotated[Mapping[str, Any], AfterValidator(check_settings)]
ScheduleValues = Annotated[Mapping[str, Any], AfterValidator(check_schedule)]


@dataclass(frozen=True, config=STRICT)
class ModelCard:
    """The contents of model.json.

    Attributes:
        name: what the model is called in provenance records.
        parts: part -> class name.
        scales: factors it was trained for, above 0.
        schedule: arguments of `make_schedule`.
        sampling: the model's own values of `Settings` fields.
        base: where parts that the folder lacks come from (see `wsisr.models.published.load_base`).
        settings_by_scale: one of `scales` -> what takes the place of values of `sampling` there.

    Raises:
        pydantic.ValidationError: a value of the wrong type or out of its range.
    """

    name: Annotated[str, Field(max_length=MAX_NAME)]
    parts: Mapping[str, str]
    scales: Annotated[tuple[Scale, ...], Field(strict=False, max_length=MAX_SCALES)] = ()
    schedule: ScheduleValues = Field(default_factory=dict)
    sampling: SettingValues = Field(default_factory=dict)
    base: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    settings_by_scale: Mapping[ScaleKey, SettingValues] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_scales(self) -> ModelCard:
        for scale in self.settings_by_scale:
            if scale not in self.scales:
                raise ValueError(f"`settings_by_scale` names {scale:g}, which is none of `scales`")
        return self

    def nearest(self, scale: float | None) -> float | None:
        """Gives the one of `scales` whose weights and settings serve a factor.

        Args:
            scale: the factor; None for none.

        Returns:
            The nearest as a ratio, of two equally near ones the smaller; None without scales or
            without a factor.
        """
        if scale is None or not self.scales:
            return None
        return min(sorted(self.scales), key=lambda n: abs(math.log2(n / scale)))

    def sampling_at(self, scale: float | None) -> dict[str, Any]:
        """Gives the model's own settings for a factor.

        Args:
            scale: the factor; None leaves `settings_by_scale` out.
        """
        nearest = self.nearest(scale)
        own = {} if nearest is None else self.settings_by_scale.get(nearest, {})
        return {**self.sampling, **own}


def read_card(folder: Path) -> ModelCard:
    """Reads and checks model.json.

    Args:
        folder: of the model.

    Raises:
        ModelError: it is missing, no JSON, of another format or version, lacks a part, or has a
            value of the wrong type or out of its range.
    """
    file = folder / "model.json"
    content = _read_content(folder, file)
    names = (field.name for field in fields(ModelCard))
    values = {name: content[name] for name in names if name in content}
    try:
        card = ModelCard(**{"name": folder.name, **values})
    except ValidationError as error:
        raise ModelError(f"{file}: {_first_fault(error)}") from error
    if unknown := sorted(set(card.parts) - set(PART_CLASSES)):
        raise ModelError(f"{file}: {unknown[0][:MAX_NAME]!r} is no part of a model")
    if "restoration" not in card.parts:
        raise ModelError(
            f"{file}: lists no part `restoration`; convert the checkpoint of stage 1 together "
            "with that of stage 2 (wsisr models convert CKPT CKPT OUT)"
        )
    if "controlnet" not in card.parts and ("unet" in card.parts or "vae" in card.parts):
        raise ModelError(f"{file}: stage 2 lacks controlnet")
    return card


def card_text(card: ModelCard) -> str:
    """Writes a card as model.json has it."""
    content: dict[str, Any] = {
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
    if card.settings_by_scale:
        content["settings_by_scale"] = {
            f"{scale:g}": dict(own) for scale, own in card.settings_by_scale.items()
        }
    return json.dumps(content, indent=2) + "\n"


def _read_content(folder: Path, file: Path) -> dict[str, Any]:
    """Reads the JSON object of a model.json of this format and version."""
    if not folder.is_dir():
        kind = (
            "pickled weights are refused, since loading them can run code"
            if folder.suffix in PICKLES
            else "a model is a folder with a model.json"
        )
        raise ModelError(f"{folder}: {kind}")
    if not file.is_file():
        raise ModelError(f"{folder}: no model.json in it; not a wsisr model folder")
    try:
        content = read_json(file)
    except MalformedError as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelError(f"{file}: not a {FORMAT} description")
    if content.get("version") != VERSION:
        raise ModelError(
            f"{file}: version {str(content.get('version'))[:MAX_NAME]}, this wsisr reads {VERSION}"
        )
    return content


def _first_fault(error: ValidationError) -> str:
    """Describes the first thing that is wrong in one line that names its key."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    cause = fault.get("ctx", {}).get("error")
    text = str(cause) if cause is not None else fault["msg"]
    line = f"`{key}`: {text}" if key else text
    # keys and values of the file may hold anything, ends of lines too
    printable = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:500])
    return "".join(printable)
