r"""Puts trained parts together into a model folder for `wsisr upscale --model`.

    python -m train export --stage1 runs/tiny/stage1 --autoencoder runs/tiny/autoencoder \
        --stage2 runs/tiny/stage2 --name tiny --out mine \
        --sampling '{"steps": 4, "start_timestep": 499, "start_from": "condition"}'

Weights are stored in half precision, which halves the folder; they are used in single precision.
With --base instead of --autoencoder the model takes UNet and autoencoder from there. Without
--stage1 it has no restoration: the resized input itself steers stage 2.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn

from train.loop import make_parser
from train.stages.latents import no_restoration
from wsisr.errors import UsageError, WsisrError
from wsisr.models import ModelCard, save_pretrained
from wsisr.models.files import load_module, load_restoration, load_state
from wsisr.models.networks import LatentControlNet


def assemble_model(
    out: Path,
    name: str,
    scales: Sequence[float],
    sampling: Mapping[str, Any],
    *,
    stage1: Path | None = None,
    autoencoder: Path | None = None,
    stage2: Path | None = None,
    base: str | None = None,
) -> tuple[str, ...]:
    """Writes a model folder; its model.json comes last.

    Args:
        out: the folder; parts of a model that is there are replaced.
        name: name of the model.
        scales: factors that it was trained for.
        sampling: its own values of `Settings` fields.
        stage1: run with restoration/; None for a model whose stage 2 sees the resized input.
        autoencoder: run with vae/.
        stage2: run, or snapshot of one, with controlnet/, the prompt, and unet/ unless `base`.
        base: base of stage 2, where its UNet and autoencoder are not trained here.

    Returns:
        The names of the parts.

    Raises:
        UsageError: these are not the parts of a model.
        ModelError: a part is missing or broken.
        OSError: `out` cannot be written; what is left of it is no model.
    """
    if stage2 is None and stage1 is None:
        raise UsageError("give --stage1, --stage2 or both")
    if stage2 is not None and (autoencoder is None) == (base is None):
        raise UsageError("--stage2 needs one of --autoencoder and --base")
    sources: dict[str, tuple[Path, type[nn.Module]]] = {}
    prompt = None
    if stage2 is not None:
        sources["controlnet"] = (stage2 / "controlnet", LatentControlNet)
        prompt = load_state(stage2)["prompt"]
    if stage2 is not None and autoencoder is not None:
        sources["vae"] = (autoencoder / "vae", AutoencoderTiny)
        sources["unet"] = (stage2 / "unet", UNet2DConditionModel)
    parts = {part: load_module(place, cls).half() for part, (place, cls) in sources.items()}
    restoration = no_restoration() if stage1 is None else load_restoration(stage1 / "restoration")
    parts = {"restoration": restoration.half(), **parts}
    card = ModelCard(
        name,
        {part: type(module).__name__ for part, module in parts.items()},
        tuple(scales),
        {"beta_start": 0.00085, "beta_end": 0.012},
        sampling,
        base,
    )
    # first of all: without it a model whose parts are half replaced is none
    (out / "model.json").unlink(missing_ok=True)
    for part in (*parts, "prompt"):
        shutil.rmtree(out / part, ignore_errors=True)
    save_pretrained(out, card, parts, prompt)
    return tuple(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder; returns the exit code."""
    parser = make_parser("export", __doc__)
    parser.add_argument("--stage1", type=Path, help="run with restoration/")
    parser.add_argument("--autoencoder", type=Path, help="run with vae/")
    parser.add_argument("--stage2", type=Path, help="run with unet/, controlnet/, prompt")
    parser.add_argument("--base", help="base of stage 2, where it is not trained here")
    parser.add_argument("--name", required=True, help="name of the model")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scales", type=float, nargs="+", default=[2, 4, 8], help="factors")
    parser.add_argument("--sampling", type=json.loads, default={}, help="sampling settings, JSON")
    args = parser.parse_args(arguments)
    try:
        parts = assemble_model(
            args.out,
            args.name,
            args.scales,
            args.sampling,
            stage1=args.stage1,
            autoencoder=args.autoencoder,
            stage2=args.stage2,
            base=args.base,
        )
    except WsisrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {args.out} cannot be written ({error})", file=sys.stderr)
        return 1
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB, {', '.join(parts)}")
    return 0
