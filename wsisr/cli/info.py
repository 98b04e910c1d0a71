"""The command `wsisr info`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from wsisr.cli.copying import local_copy
from wsisr.cli.grouping import GroupedCommand
from wsisr.cli.options import PLACE, cache_options, json_option, trust_input_option
from wsisr.urls import is_url, shown

FIRST = ("software", "notice", "model", "scale")
"""What people want to know first of an output."""
HASH_DIGITS = 16
"""Of a SHA-256, as people compare them; --json has all."""


@click.command(cls=GroupedCommand)
@click.argument("file", type=PLACE)
@trust_input_option
@cache_options
@json_option
def info(file: str | Path, cache: Path | None, cache_gb: float | None, as_json: bool) -> None:
    """Shows size, levels, resolution and associated images of a slide.

    Of what wsisr made it also shows what made the pixels: model, weights, seed and settings.
    """
    from wsisr.pyramid import read_provenance
    from wsisr.slides import describe_slide

    with local_copy(file, cache, cache_gb) as local:
        facts = describe_slide(Path(local))
        facts["provenance"] = read_provenance(Path(local))
    if is_url(file):
        facts["file"] = shown(str(file))
    if as_json:
        click.echo(json.dumps(facts))
        return
    made_by = facts.pop("provenance")
    for name, text in (*as_text(facts), *as_text_of_maker(made_by or {})):
        click.echo(f"{name + ':':23} {text}")


def as_text(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields name and text of what is known of a slide, with as many digits as mean something."""
    for name, value in facts.items():
        if value is None:
            yield name, "not recorded"
        elif name == "levels":
            yield name, ", ".join(f"{width}x{height} (1/{by:.4g})" for width, height, by in value)
        elif name == "icc_profile":
            yield name, f"{value} bytes"
        elif isinstance(value, float):
            yield name, f"{value:.4g}" + (" um/px" if name == "mpp" else "")
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield name, str(value)


def as_text_of_maker(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields name and text of what made the pixels; nothing for a file that wsisr did not make."""
    for name in (*FIRST, *(name for name in record if name not in FIRST)):
        value = record.get(name)
        title = name.replace("_", " ")
        if name == "weights_sha256" and isinstance(value, Mapping):
            for file, digest in value.items():
                yield "weights", f"{file} sha256 {str(digest)[:HASH_DIGITS]}..."
        elif isinstance(value, Mapping):
            given = {key: each for key, each in value.items() if each is not None}
            yield title, ", ".join(f"{key} {_short(each)}" for key, each in given.items())
        elif isinstance(value, list):
            yield title, ", ".join(map(_short, value)) or "none"
        elif value is not None:
            yield title, _short(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"{text[:HASH_DIGITS]}..." if len(text) == 64 and text.isalnum() else text
