"""Which part of its input a result shows, as its provenance says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from wsisr.pyramid import read_provenance


class Part(NamedTuple):
    """The place of a result in its upscaled input.

    Attributes:
        x: left edge, in px of the result.
        y: top edge, in px of the result.
        scale: px of the result that a px of the input is wide.
    """

    x: int
    y: int
    scale: int


def part_of(path: Path) -> Part | None:
    """Reads the place of a result of `wsisr upscale`.

    Args:
        path: the result.

    Returns:
        Its place; None where it records none, or a scale that is no whole number.
    """
    record = read_provenance(path) or {}
    region, scale = record.get("region"), record.get("scale")
    if not isinstance(region, list) or len(region) != 4 or not isinstance(scale, int | float):
        return None
    if not all(isinstance(value, int) and value >= 0 for value in region):
        return None
    return Part(region[0], region[1], int(scale)) if scale >= 1 and scale % 1 == 0 else None
