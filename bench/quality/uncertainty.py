"""Whether the spread of samples tells where they are wrong.

    python -m bench.quality.uncertainty --tiles tiles/test --scales 4,8 --samples 4 --json uncertainty.json

Spearman's rank correlation between the predicted standard deviation and the actual error of the
first sample against the real scan (root mean square over the channels), in blocks of 16 px: within
each tile (mean over tiles), and over the blocks of all tiles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.quality.run import list_tiles
from wsisr.engine import upscale_array
from wsisr.evaluation.pairing import read_image
from wsisr.models import load_upscaler, pick_device
from wsisr_kernels.blocks.reference import block_means

BLOCK = 16


def block_rms(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square of (h, w) values given as squares, in each block."""
    height, width = (side // BLOCK for side in squares.shape)
    blocks = squares[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK)
    rms: NDArray[np.float64] = np.sqrt(blocks.mean((1, 3)))
    return rms


def run(tiles: Sequence[Path], scale: int, model: str, samples: int) -> dict[str, float]:
    """Correlations, and the mean of deviation and error in grey levels."""
    device = pick_device(None)
    seeded = [
        load_upscaler(model, device=device, settings={"seed": k}, scale=scale)
        for k in range(samples)
    ]
    deviations, errors, within = [], [], []
    for path in tiles:
        hr = read_image(path)
        height, width = (side // scale * scale for side in hr.shape[:2])
        hr = np.ascontiguousarray(hr[:height, :width])
        lr = block_means(hr, scale)
        outputs = np.stack([upscale_array(lr, scale, model=one) for one in seeded]).astype(float)
        deviations.append(block_rms(outputs.var(0, ddof=1).mean(-1)))
        errors.append(block_rms(((outputs[0] - hr) ** 2).mean(-1)))
        within.append(spearmanr(deviations[-1].ravel(), errors[-1].ravel()).statistic)
    one, other = np.concatenate(deviations).ravel(), np.concatenate(errors).ravel()
    return {
        "rank_correlation": float(spearmanr(one, other).statistic),
        "rank_correlation_within": float(np.nanmean(within)),
        "deviation": float(one.mean()),
        "error": float(other.mean()),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=Path, required=True)
    parser.add_argument("--scales", default="4,8")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    tiles = list_tiles(args.tiles, args.limit)
    result: dict[str, object] = {"model": args.model, "tiles": len(tiles), "samples": args.samples}
    for scale in map(int, args.scales.split(",")):
        for name, value in run(tiles, scale, args.model, args.samples).items():
            print(f"x{scale} {name:28}{value:10.4f}", flush=True)
            result[f"x{scale}_{name}"] = value
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
