"""Put trained parts together into a model folder for `wsisr upscale --model`.

    python -m train.export --stage1 runs/tiny/stage1 --autoencoder runs/tiny/autoencoder \
        --stage2 runs/tiny/stage2 --name tiny --out wsisr/models/weights/tiny \
        --sampling '{"steps": 4, "start_timestep": 499, "start_from": "condition"}'

Weights are stored in half precision, which halves the folder; they are used in single precision.
With --base instead of --autoencoder the model takes UNet and autoencoder from there. Without
--stage1 it has no restoration: the resized input itself steers stage 2.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn

from train.latents import no_restoration
from wsisr.models import ModelCard, save_pretrained
from wsisr.models.diffusion import LatentControlNet
from wsisr.models.loading import load_module, load_state
from wsisr.models.restoration import SwinIR


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage1", type=Path, help="run with restoration/")
    parser.add_argument("--autoencoder", type=Path, help="run with vae/")
    parser.add_argument("--stage2", type=Path, help="run with unet/, controlnet/, prompt")
    parser.add_argument("--base", help="of stage 2, where it is not trained here")
    parser.add_argument("--name", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scales", type=float, nargs="+", default=[2, 4, 8])
    parser.add_argument("--sampling", type=json.loads, default={}, help="JSON of settings")
    args = parser.parse_args()
    if args.stage2 is None and args.stage1 is None:
        parser.error("give --stage1, --stage2 or both")
    if args.stage2 is not None and (args.autoencoder is None) == (args.base is None):
        parser.error("--stage2 needs one of --autoencoder and --base")
    sources: dict[str, tuple[Path, type[nn.Module]]] = {}
    if args.stage1 is not None:
        sources["restoration"] = (args.stage1 / "restoration", SwinIR)
    prompt = None
    if args.stage2 is not None:
        sources["controlnet"] = (args.stage2 / "controlnet", LatentControlNet)
        prompt = load_state(args.stage2)["prompt"]
    if args.autoencoder is not None and args.stage2 is not None:
        sources["vae"] = (args.autoencoder / "vae", AutoencoderTiny)
        sources["unet"] = (args.stage2 / "unet", UNet2DConditionModel)
    parts = {name: _half(folder, cls) for name, (folder, cls) in sources.items()}
    parts.setdefault("restoration", no_restoration().half())
    card = ModelCard(
        args.name,
        {name: type(module).__name__ for name, module in parts.items()},
        tuple(args.scales),
        {"beta_start": 0.00085, "beta_end": 0.012},
        args.sampling,
        args.base,
    )
    if args.out.exists():
        for part in (*parts, "prompt"):
            shutil.rmtree(args.out / part, ignore_errors=True)
    save_pretrained(args.out, card, parts, prompt)
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file())
    print(f"{args.out}: {size / 2**20:.1f} MiB, {', '.join(parts)}")


def _half(folder: Path, cls: type[nn.Module]) -> nn.Module:
    return load_module(folder, cls).half()


if __name__ == "__main__":
    main()
