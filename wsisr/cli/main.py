"""The command line: options in, one call, messages out."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from wsisr.errors import UsageError, WsisrError
from wsisr.version import VERSION

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

INTERRUPTED = 130


class RegionType(click.ParamType):
    """X,Y,W,H as four whole numbers."""

    name = "X,Y,W,H"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text. Raises click's usage error."""
        try:
            x, y, width, height = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not four whole numbers X,Y,W,H", param, ctx)
        from wsisr.plan import Rect

        return Rect(x, y, width, height)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="wsisr")
@click.option("--debug", is_flag=True, help="Show tracebacks and debug messages.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Super-resolution of whole-slide histology images. Not for primary diagnosis."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr)
    context.obj = debug


@cli.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--scale", type=float, help="Factor, > 1. [default: what leads to 40x]")
@click.option("--input-mag", type=float, metavar="M", help="Magnification of IN to start from.")
@click.option("--input-mpp", type=float, metavar="X", help="Its um/px instead.")
@click.option("--level", type=int, metavar="L", help="Its pyramid level instead.")
@click.option("--region", type=RegionType(), help="Part of IN in level-0 px. [default: all]")
@click.option("--model", default="tiny", show_default=True, help="Name, folder or weight file.")
@click.option("--base", help="Stable Diffusion 2.1 for a model without: folder, file or hub id.")
@click.option("--steps", type=int, help="Denoising steps. [default: the model's]")
@click.option(
    "--sampler",
    help="spaced-ddpm, ddim, dpm-solver++, euler or few-step. [default: the model's]",
)
@click.option("--strength", type=float, help="Noise to start from, 0 to 1. [default: the model's]")
@click.option("--window", type=int, default=512, show_default=True, help="Window side, output px.")
@click.option("--overlap", type=int, default=64, show_default=True, help="Of windows, output px.")
@click.option("--joint", is_flag=True, help="Sample blocks of 2x2 windows together.")
@click.option("--batch", type=click.IntRange(1), help="Windows at once. [default: by device]")
@click.option("--device", help="cpu, cuda, cuda:1 … [default: first GPU, else CPU]")
@click.option("--precision", help="fp32, bf16 or fp16. [default: bf16 where fast, else fp32]")
@click.option("--compile/--no-compile", default=None, help="torch.compile blocks. [default: no]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise field.")
@click.option("--color-fix", help="wavelet, adain or none. [default: wavelet]")
@click.option("--consistency", help="exact (lossless output), soft or off. [default: soft]")
@click.option("--fidelity", type=float, help="0 generated … 1 stage 1 only. [default: the model's]")
@click.option(
    "--uncertainty", type=int, metavar="K", help="Write the spread of K samples beside OUT."
)
@click.option(
    "--output-sample",
    type=click.Choice(["first", "mean"]),
    default="first",
    show_default=True,
    help="With --uncertainty: which image OUT is.",
)
@click.option("--tissue", default="auto", show_default=True, help="auto, off or a mask file.")
@click.option("--tissue-out", type=click.Path(path_type=Path), help="Write the mask: GeoJSON.")
@click.option(
    "--on-tile-error",
    type=click.Choice(["fail", "blank"]),
    default="fail",
    show_default=True,
    help="Damaged tiles of IN: stop, or take them for glass and list them.",
)
@click.option(
    "--compression",
    type=click.Choice(["jpeg", "deflate", "zstd", "jpeg2000"]),
    default="jpeg",
    show_default=True,
)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option(
    "--subsampling", type=click.Choice(["420", "422", "444"]), default="420", show_default=True
)
@click.option("--layout", type=click.Choice(["ome", "hybrid"]), default="ome", show_default=True)
@click.option("--zarr-version", type=click.Choice(["0.4", "0.5"]), default="0.4", show_default=True)
@click.option("--associated", is_flag=True, help="Carry label and macro (patient data).")
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT and start anew.")
@click.option(
    "--resume/--no-resume", default=None, help="Go on from an unfinished run. [default: if any]"
)
@click.option("--force", is_flag=True, help="Allow more than 80x.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout when done.")
def upscale(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Upscale IN into the pyramid OUT (.ome.tif, .ome.tiff or .ome.zarr)."""
    from wsisr.engine import NOTICE, Job
    from wsisr.engine import upscale as run

    names = [
        "steps",
        "sampler",
        "strength",
        "precision",
        "compile",
        "seed",
        "color_fix",
        "consistency",
        "fidelity",
    ]
    settings = {name: options.pop(name) for name in names}
    given = {name: value for name, value in settings.items() if value is not None}
    job = Job(source, output, settings=given, **options)
    with tqdm(unit="tile", disable=None, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = run(job, progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result)))
    else:
        click.echo(
            f"{result.output}: {result.width}x{result.height} px, {result.magnification:g}x "
            f"({result.mpp:.4g} um/px), {result.seconds:.0f} s. {NOTICE}",
            err=True,
        )


@cli.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--input-mpp", "--mpp", "mpp", type=float, help="um/px of IN, if not recorded.")
@click.option("--input-mag", "--magnification", "magnification", type=float, help="It instead.")
@click.option("--tile", type=int, default=512, show_default=True)
@click.option(
    "--compression",
    type=click.Choice(["jpeg", "deflate", "zstd", "jpeg2000"]),
    default="jpeg",
    show_default=True,
)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.option(
    "--subsampling", type=click.Choice(["420", "422", "444"]), default="420", show_default=True
)
@click.option("--layout", type=click.Choice(["ome", "hybrid"]), default="ome", show_default=True)
@click.option("--zarr-version", type=click.Choice(["0.4", "0.5"]), default="0.4", show_default=True)
@click.option("--associated", is_flag=True, help="Carry label and macro (patient data).")
@click.option("--reencode", is_flag=True, help="Do not copy JPEG tiles as they are.")
@click.option(
    "--on-tile-error",
    type=click.Choice(["fail", "blank"]),
    default="fail",
    show_default=True,
    help="Damaged tiles of IN: stop, or leave them blank and list them.",
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT and start anew.")
@click.option(
    "--resume/--no-resume", default=None, help="Go on from an unfinished run. [default: if any]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout when done.")
def convert(source: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Convert a slide to OME-TIFF or OME-Zarr without a model."""
    from wsisr.transcode import convert as run

    with tqdm(unit="tile", disable=None, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = run(source, output, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), default=str))
    else:
        click.echo(f"{result.output}: {result.width}x{result.height} px", err=True)


@cli.command(name="eval")
@click.argument("sr", type=click.Path(path_type=Path))
@click.argument("hr", type=click.Path(path_type=Path), required=False)
@click.option("--lr", type=click.Path(path_type=Path), help="The slide that was upscaled.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.")
@click.option("--label", default="sr", show_default=True, help="What tables call SR.")
@click.option(
    "--also",
    multiple=True,
    metavar="LABEL=PATH",
    help="A further result to compare, of SR's size; repeat for several.",
)
@click.option("--tiles", is_flag=True, help="SR and HR are folders of tiles of the same names.")
@click.option("--scale", type=int, help="With --tiles: make LR from HR by this factor.")
@click.option("--transform", type=click.Path(path_type=Path), help="JSON matrix, SR to HR px.")
@click.option("--sr-mpp", type=float, help="um/px of SR, where it records none.")
@click.option("--hr-mpp", type=float, help="um/px of HR, where it records none.")
@click.option(
    "--segmenter",
    default="classical",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="Of nuclei: classical, hovernet, instanseg, a folder of label images, or GeoJSON.",
)
@click.option(
    "--metrics",
    default="offline",
    show_default=True,
    help="Comma-separated names; `offline` is all without a network and NRQM, `all` is all.",
)
@click.option("--count", type=int, default=200, show_default=True, help="Tissue tiles; 0 is all.")
@click.option(
    "--tile-size",
    type=click.IntRange(32),
    default=512,
    show_default=True,
    help="Side of the tiles slides are judged in, px of SR.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of tiles.")
@click.option("--workers", type=click.IntRange(1), help="Tiles at once. [default: a core each]")
@click.option("--force", is_flag=True, help="Full-reference measures despite a bad registration.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def evaluate(
    sr: Path,
    hr: Path | None,
    lr: Path | None,
    also: tuple[str, ...],
    count: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Judge SR against the real scan HR, or alone."""
    from wsisr.evaluation import evaluate as run
    from wsisr.evaluation import parse_labels

    evaluation = run(
        sr, hr, lr, count=count or None, also=parse_labels(also), show_progress=True, **options
    )
    click.echo(evaluation.json() if as_json else evaluation.table())


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def info(file: Path, as_json: bool) -> None:
    """Show size, levels, resolution and associated images of a slide."""
    from wsisr.slides import describe_slide

    facts = describe_slide(file)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        for name, value in facts.items():
            click.echo(f"{name + ':':16}{'not recorded' if value is None else value}")


@cli.group()
def models() -> None:
    """List, describe and convert models."""


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """List the models that ship with wsisr and the weights that measures need."""
    from wsisr.evaluation.weights import list_weights
    from wsisr.models.files import shipped_models

    found = shipped_models()
    if as_json:
        click.echo(json.dumps({m.name: {"scales": m.scales, "bytes": m.bytes} for m in found}))
        return
    for model in found:
        scales = ", ".join(f"{scale:g}" for scale in model.scales)
        size = f"{model.parameters / 1e6:.2f} M parameters, {model.bytes / 2**20:.1f} MiB"
        click.echo(f"{model.name:12}scales {scales:12}{size}")
    click.echo("\nWeights of `wsisr eval`:\n" + "\n".join(list_weights()))


@models.command()
@click.argument("name", metavar="NAME_OR_PATH")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def show(name: str, as_json: bool) -> None:
    """Show a model's parts, sizes, settings, hashes and card."""
    from wsisr.models.files import as_lines, summarise

    model = summarise(name)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(model)))
    else:
        click.echo("\n".join(as_lines(model)))
        if model.card:
            click.echo("\n" + model.card)


@models.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Download weights of measures, check them, and put them where `eval` looks."""
    from wsisr.evaluation.weights import REGISTRY, fetch_weights

    for name in names:
        for path in fetch_weights(name).values():
            click.echo(f"{name}: {path} (licence: {REGISTRY[name].licence})")


@models.command(name="convert")
@click.argument(
    "checkpoints", metavar="CKPT...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--name", help="Of the model. [default: OUT's]")
@click.option(
    "--prediction",
    type=click.Choice(["epsilon", "v"]),
    default="epsilon",
    show_default=True,
    help="What the network was trained to predict; v for DiffBIR v2.1.",
)
@click.option("--zero-snr", is_flag=True, help="Noise schedule that ends without signal (v2.1).")
@click.option("--base", help="Stable Diffusion 2.1: folder, .safetensors or hub id.")
@click.option("--half", is_flag=True, help="Store weights in half precision.")
@click.option("--overwrite", is_flag=True, help="Replace an existing OUT.")
def convert_model(checkpoints: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Make published checkpoints (DiffBIR: full, stage 1, ControlNet) into the model folder OUT."""
    from wsisr.models.published import convert as run

    report = run(checkpoints, output, **options)
    click.echo("\n".join([f"{output}:", *report.lines()]), err=True)


@cli.command()
def doctor() -> None:
    """Check versions, devices and libraries, and say how to get what is missing."""
    from wsisr.doctor import examine

    checks = examine()
    for check in checks:
        click.echo(f"{check.state:8}{check.subject:24}{check.detail}")
    if any(check.state == "missing" for check in checks):
        raise SystemExit(1)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: turns expected failures into one line and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    debug = "--debug" in sys.argv
    try:
        code = cli(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = _fail(f"interrupted; {way_on(sys.argv)} goes on where this one stopped", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        code = UsageError.exit_code
    except WsisrError as error:
        if debug:
            raise
        message = error.spelled(lambda option: f"--{option.replace('_', '-')}")
        code = _fail(message, error.exit_code)
    except MemoryError:
        if debug:
            raise
        code = _fail("out of memory; give a smaller --batch or --tile", 1)
    sys.exit(code if isinstance(code, int) else 0)


def way_on(arguments: list[str]) -> str:
    """What to run after an interruption: --overwrite alone would start anew."""
    anew = "--no-resume" in arguments or (
        "--overwrite" in arguments and "--resume" not in arguments
    )
    return "the same command with --resume" if anew else "the same command"


def _fail(message: str, code: int) -> int:
    click.echo(f"wsisr: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    main()
