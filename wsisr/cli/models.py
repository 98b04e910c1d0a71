"""The commands of `wsisr models`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from wsisr.cli.grouping import GroupedCommand, model_option, output_option
from wsisr.cli.options import PATH, json_option, out_argument, overwrite_option


@click.group()
def models() -> None:
    """Lists, describes, converts and downloads models."""


@models.command(name="list", cls=GroupedCommand)
@json_option
def list_models(as_json: bool) -> None:
    """Lists the models that ship with wsisr and the weights that measures need."""
    from wsisr.evaluation.weights import list_weights
    from wsisr.models import shipped_models

    found = shipped_models()
    if as_json:
        click.echo(json.dumps({m.name: {"scales": m.scales, "bytes": m.bytes} for m in found}))
        return
    for model in found:
        scales = ", ".join(f"{scale:g}" for scale in model.scales)
        size = f"{model.parameters / 1e6:.2f} M parameters, {model.bytes / 2**20:.1f} MiB"
        click.echo(f"{model.name:12}scales {scales:12}{size}")
    click.echo("\nWeights of `wsisr eval`:\n" + "\n".join(list_weights()))


@models.command(cls=GroupedCommand)
@click.argument("name", metavar="NAME_OR_PATH")
@json_option
def show(name: str, as_json: bool) -> None:
    """Shows a model's parts, sizes, settings, hashes and card."""
    from wsisr.models import as_lines, summarise

    model = summarise(name)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(model)))
        return
    click.echo("\n".join(as_lines(model)))
    if model.card:
        click.echo("\n" + model.card)


@models.command(cls=GroupedCommand)
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Downloads weights of measures, checks them, and puts them where `wsisr eval` looks."""
    from wsisr.evaluation.weights import REGISTRY, fetch_weights

    for name in names:
        for path in fetch_weights(name).values():
            click.echo(f"{name}: {path} (licence: {REGISTRY[name].licence})")


@models.command(name="convert", cls=GroupedCommand)
@click.argument("checkpoints", metavar="CKPT...", nargs=-1, required=True, type=PATH)
@out_argument
@model_option("--name", show_default="the name of OUT", help="Name of the new model.")
@model_option(
    "--prediction",
    type=click.Choice(["epsilon", "v"]),
    default="epsilon",
    show_default=True,
    help="Quantity that the network was trained to predict; v for DiffBIR v2.1.",
)
@model_option(
    "--zero-snr",
    is_flag=True,
    help="Take a noise schedule that ends without any signal, as DiffBIR v2.1 does.",
)
@model_option(
    "--base",
    metavar="NAME_OR_PATH",
    help="Stable Diffusion 2.1 to build on: a folder, a .safetensors file or a hub id.",
)
@output_option("--half", is_flag=True, help="Store the weights in half precision.")
@overwrite_option
def convert_model(checkpoints: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Makes published checkpoints (DiffBIR: full, stage 1, ControlNet) into a model folder OUT."""
    from wsisr.models.published import convert

    report = convert(checkpoints, output, **options)
    click.echo("\n".join([f"{output}:", *report.lines()]), err=True)
