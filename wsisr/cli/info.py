"""The command `wsisr info`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wsisr.cli.copying import local_copy
from wsisr.cli.grouping import GroupedCommand
from wsisr.cli.options import PLACE, cache_options, json_option
from wsisr.urls import is_url, shown


@click.command(cls=GroupedCommand)
@click.argument("file", type=PLACE)
@cache_options
@json_option
def info(file: str | Path, cache: Path | None, cache_gb: float | None, as_json: bool) -> None:
    """Shows size, levels, resolution and associated images of a slide."""
    from wsisr.slides import describe_slide

    with local_copy(file, cache, cache_gb) as local:
        facts = describe_slide(Path(local))
    if is_url(file):
        facts["file"] = shown(str(file))
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name + ':':16}{'not recorded' if value is None else value}")
