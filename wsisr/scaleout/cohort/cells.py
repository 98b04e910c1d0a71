"""What the columns of a manifest hold, and how their cells are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsisr.plan import Rect
from wsisr.urls import is_url, shown

COLUMNS = {
    "slide": "slide", "wsi": "slide", "id": "id", "output": "output", "mpp": "input_mpp",
    "magnification": "input_mag", "level": "level", "region": "region", "tissue": "tissue",
    "scale": "scale", "model": "model", "seed": "seed", "hr": "hr",
}  # fmt: skip
"""Column -> what it sets: a field of a row, or an option of its slide."""
_SHOWN_CHARACTERS = 60
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Reading:
    """How cells are to be understood.

    Attributes:
        folder: what relative paths count from.
        decimal_comma: whether `0,25` is a number, as it is where no comma separates the columns.
    """

    folder: Path
    decimal_comma: bool


def read_cells(cells: Mapping[str, str], reading: Reading) -> tuple[dict[str, Any], list[str]]:
    """Reads the cells of a row that are not blank.

    Args:
        cells: column -> text.
        reading: how they are to be understood.

    Returns:
        What they set, by the names of `COLUMNS`, and what is wrong with the others.
    """
    values, problems = {}, []
    for column, text in cells.items():
        try:
            values[COLUMNS[column]] = _READERS[COLUMNS[column]](text, reading)
        except ValueError as error:
            quoted = repr(shown(text)[:_SHOWN_CHARACTERS])
            problems.append(f"column {column}: {quoted} {error}")
    return values, problems


def _text(text: str, reading: Reading) -> str:
    return text


def _number(text: str, reading: Reading) -> float:
    if reading.decimal_comma and "." not in text:
        text = text.replace(",", ".")
    try:
        return float(text)
    except ValueError:
        raise ValueError("is not a number") from None


def _positive(text: str, reading: Reading) -> float:
    value = _number(text, reading)
    if not (math.isfinite(value) and value > 0):
        raise ValueError("is not a number above 0")
    return value


def _magnification(text: str, reading: Reading) -> float:
    return _positive(text.removesuffix("x").removesuffix("X"), reading)


def _scale(text: str, reading: Reading) -> float:
    value = _magnification(text, reading)
    if value <= 1:
        raise ValueError("is not above 1")
    return value


def _whole(text: str, limit: int = 2**64) -> int:
    if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) >= limit:
        raise ValueError("is not a whole number from 0 on")
    return int(text)


def _level(text: str, reading: Reading) -> int:
    return _whole(text, 1000)


def _seed(text: str, reading: Reading) -> int:
    return _whole(text)


def _region(text: str, reading: Reading) -> Rect:
    parts = re.split(r"[,;\s]+", text)
    if len(parts) != 4 or not all(re.fullmatch(r"-?[0-9]{1,10}", part) for part in parts):
        raise ValueError("is not four whole numbers X,Y,W,H; quote them where commas separate")
    region = Rect(*map(int, parts))
    if region.width < 1 or region.height < 1:
        raise ValueError("has no pixels; give a width and a height above 0")
    return region


def _input(text: str, reading: Reading) -> str:
    """Gives the path, or URL, of a file that is there."""
    if is_url(text):
        return text
    try:
        path = reading.folder / text
        there = path.exists()
    except (OSError, ValueError):
        raise ValueError("is not a path") from None
    if not there:
        raise ValueError("does not exist")
    return str(path)


def _tissue(text: str, reading: Reading) -> str:
    return text if text in ("auto", "off") else _input(text, reading)


def _model(text: str, reading: Reading) -> str:
    """Gives the name of a model, or the path of what looks like one."""
    if "/" in text or "\\" in text:
        return _input(text, reading)
    path = reading.folder / text
    return str(path) if Path(text).suffix and path.exists() else text


def _output(text: str, reading: Reading) -> str:
    if is_url(text) or "\0" in text or len(text) > _LONGEST_PATH:
        raise ValueError("is not a path")
    return text


_READERS: Mapping[str, Callable[[str, Reading], Any]] = {
    "slide": _input, "id": _text, "output": _output, "input_mpp": _positive,
    "input_mag": _magnification, "level": _level, "region": _region, "tissue": _tissue,
    "scale": _scale, "model": _model, "seed": _seed, "hr": _input,
}  # fmt: skip
