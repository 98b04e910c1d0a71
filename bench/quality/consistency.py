"""What consistency with the input costs or gains, and whether `exact` is.

    python -m bench.quality.consistency --tiles tiles/test --scales 2,4,8 --json consistency.json

For each scale and mode: bytes of the low-resolution input that the averaged output differs from,
and PSNR against the real scan.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.quality.run import list_tiles
from wsisr.engine import upscale_array
from wsisr.evaluation.measures import psnr
from wsisr.evaluation.pairing import read_image
from wsisr.models import load_upscaler, pick_device
from wsisr_kernels.blocks.reference import block_means

MODES = ("off", "soft", "exact")


def run(
    tiles: Sequence[Path], scale: int, model: str, modes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Differing bytes in all, bytes in all and mean PSNR (dB) of each mode."""
    device = pick_device(None)
    table = {}
    for mode in modes:
        loaded = load_upscaler(model, device=device, settings={"consistency": mode}, scale=scale)
        differing, total, decibels = 0, 0, []
        for path in tiles:
            hr = read_image(path)
            height, width = (side // scale * scale for side in hr.shape[:2])
            hr = np.ascontiguousarray(hr[:height, :width])
            lr = block_means(hr, scale)
            out = upscale_array(lr, scale, model=loaded, exact=mode == "exact")
            differing += int(np.count_nonzero(block_means(out, scale) != lr))
            total += lr.size
            decibels.append(psnr(out, hr))
        table[mode] = {
            "differing_bytes": differing,
            "bytes": total,
            "psnr": statistics.fmean(decibels),
        }
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--scales", default="2,4,8")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tiles = list_tiles(args.tiles, args.limit)
    result: dict[str, object] = {"model": args.model, "tiles": len(tiles)}
    for scale in map(int, args.scales.split(",")):
        for mode, found in run(tiles, scale, args.model, args.modes.split(",")).items():
            print(
                f"x{scale} {mode:8}{found['differing_bytes']:12.0f} of {found['bytes']:.0f} bytes "
                f"differ{found['psnr']:10.3f} dB",
                flush=True,
            )
            result |= {f"x{scale}_{mode}_{name}": value for name, value in found.items()}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
