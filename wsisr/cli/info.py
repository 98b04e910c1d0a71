"""The command `wsisr info`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wsisr.cli.grouping import GroupedCommand
from wsisr.cli.options import PATH, json_option


@click.command(cls=GroupedCommand)
@click.argument("file", type=PATH)
@json_option
def info(file: Path, as_json: bool) -> None:
    """Shows size, levels, resolution and associated images of a slide."""
    from wsisr.slides import describe_slide

    facts = describe_slide(file)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name + ':':16}{'not recorded' if value is None else value}")
