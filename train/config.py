"""Sections of YAML files as typed, checked dataclasses.

Fields are declared once, with their ranges, by the types below and pydantic's `Field`. YAML has its
quirks, and the types take them in: `1e-4` is text to YAML 1.1, a bare `no` is false, and nothing
behind a key is null. What does not fit is told in one line that names the key.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

from wsisr.errors import UsageError

T = TypeVar("T")
STRICT_KEYS = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
"""For `pydantic.dataclasses.dataclass(config=…)`: unknown keys are refused."""


def _read_number(value: Any) -> Any:
    """Reads text as a number, for YAML 1.1 takes `1e-4` for text, and refuses what is none."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, float) and math.isnan(value):
        raise ValueError("must be a number")
    return value


def _read_text(value: Any) -> Any:
    """Takes nothing, and a bare `no`, for empty text."""
    return "" if value is None or value is False else value


def _read_off(value: Any) -> Any:
    """Takes nothing, and a bare `no`, for the word `no`."""
    return "no" if value is None or value is False or value == "" else value


Flag = Annotated[bool, Strict()]
Integer = Annotated[int, Strict()]
Number = Annotated[float, BeforeValidator(_read_number), Strict()]
Text = Annotated[str, BeforeValidator(_read_text), Strict()]
NoMeansOff = BeforeValidator(_read_off)
"""For a choice of words one of which is `no`."""

Count = Annotated[Integer, Field(ge=1)]
CountOrZero = Annotated[Integer, Field(ge=0)]
Weight = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
Factor = Annotated[Number, Field(ge=1)]


def build(config_type: type[T], values: Any, within: str = "") -> T:
    """Makes a config from plain values, those of nested configs included.

    Args:
        config_type: a pydantic dataclass.
        values: keys and values, as YAML gives them.
        within: the key that the values stand at, for messages.

    Returns:
        The config.

    Raises:
        UsageError: a key is unknown, or a value is of another type or out of its range. The
            message names the first such key, with dots between nested ones.
    """
    try:
        return TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        raise UsageError(explain(error, config_type, within)) from error


def explain(error: ValidationError, config_type: type | None = None, within: str = "") -> str:
    """Gives the first error of a validation as `KEY VALUE: RULE`.

    Args:
        error: what pydantic found.
        config_type: the dataclass that was validated, to tell a misspelt key from its own.
        within: the key that its values stand at.

    Returns:
        One line.
    """
    first, *more = error.errors(include_url=False)
    place = list(first["loc"])
    kind, value = first["type"], first["input"]
    if kind == "missing" and place and isinstance(place[-1], int):
        # a list that is too short lacks each of its last items
        places = [each["loc"] for each in (first, *more)]
        longest = max(int(loc[-1]) for loc in places if list(loc[:-1]) == place[:-1])
        return f"{_key(place[:-1], within)} {value!r}: must be a list of {longest + 1}"
    key = _key(place, within)
    if kind == "unexpected_keyword_argument":
        known = _known_keys(config_type, place[:-1])
        close = difflib.get_close_matches(str(place[-1]), known, 1)
        return f"{key}: is no key of this section" + (f"; is {close[0]} meant?" if close else "")
    return f"{key} {value!r}: {_rule(first)}".lstrip()


def _key(place: Sequence[int | str], within: str) -> str:
    """Spells the place of a value: `loop.learning_rate`, `scales[0]`."""
    key = within
    for part in place:
        key += f"[{part}]" if isinstance(part, int) and key else f".{part}"
    return key.lstrip(".")


def _known_keys(config_type: Any, place: Sequence[int | str]) -> list[str]:
    """Lists the keys of the config at a place inside another one."""
    for part in place:
        field = getattr(config_type, "__pydantic_fields__", {}).get(part)
        config_type = getattr(field, "annotation", None)
    return list(getattr(config_type, "__pydantic_fields__", {}))


RULES = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be keys and values",
    "mapping_type": "must be keys and values",
    "dataclass_type": "must be keys and values",
    "greater_than_equal": "must be {ge:g} or more",
    "greater_than": "must be above {gt:g}",
    "less_than_equal": "must be {le:g} or less",
    "less_than": "must be below {lt:g}",
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "literal_error": "must be {expected}",
    "too_short": "must be a list of {min_length} or more",
    "too_long": "must be a list of {max_length}",
}
"""Kind of an error of pydantic -> what holds instead."""


def _rule(error: Mapping[str, Any]) -> str:
    """Says what holds instead of an error."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    rule = RULES.get(error["type"])
    return (
        str(error["msg"]) if rule is None else rule.format(**error.get("ctx", {})).replace("'", "")
    )


def read_config(file: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads the sections of a YAML file and puts overrides in.

    Args:
        file: the YAML file.
        overrides: `SECTION.KEY=VALUE`, or `SECTION.KEY.KEY=VALUE` for nested keys.

    Returns:
        Section -> its keys and values.

    Raises:
        UsageError: the file cannot be read, or an override does not fit in.
    """
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise UsageError(f"{file} cannot be read as YAML ({line})") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file}: holds no sections")
    for item in overrides:
        _override(config, item, file)
    return config


def _override(config: dict[str, Any], item: str, file: Path) -> None:
    """Puts `KEY.KEY=VALUE` into a config."""
    path, equals, value = item.partition("=")
    *outer, last = path.split(".")
    place: Any = config
    for name in outer:
        place = place.setdefault(name, {}) if isinstance(place, dict) else None
    if not (equals and last and isinstance(place, dict)):
        raise UsageError(f"--set {item}: does not fit into {file}; give KEY=VALUE")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {item}: the value cannot be read as YAML") from error
