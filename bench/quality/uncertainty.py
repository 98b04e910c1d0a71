"""Measures whether the spread of samples tells where they are wrong.

    python -m bench.quality uncertainty --tiles tiles/test --samples 4 --json uncertainty.json

Spearman's rank correlation between the predicted standard deviation and the actual error of the
first sample against the real scan (root mean square over the channels), in blocks of 16 px: within
each tile (mean over tiles), and over the blocks of all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench.command import add_json, add_model, add_scales, add_tiles, make_parser, write_json
from bench.quality.tiles import block_means, list_tiles, read_cropped
from wsisr.engine import upscale_image
from wsisr.models import load_upscaler, pick_device

BLOCK = 16


def block_rms(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the root mean square of each block.

    Args:
        squares: the squares of the values, (h, w).

    Returns:
        (h // BLOCK, w // BLOCK).
    """
    height, width = (side // BLOCK for side in squares.shape)
    blocks = squares[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK)
    rms: NDArray[np.float64] = np.sqrt(blocks.mean((1, 3)))
    return rms


def measure(tiles: Sequence[Path], scale: int, model: str, samples: int) -> dict[str, float]:
    """Measures how the spread of samples goes with their error.

    Args:
        tiles: files of real tiles.
        scale: a whole number.
        model: any model that `wsisr upscale` takes.
        samples: how many images are made of each tile, 2 or more.

    Returns:
        `rank_correlation` over all blocks and `rank_correlation_within` tiles; the means of
        `deviation` and `error` in grey levels.
    """
    device = pick_device(None)
    seeded = [
        load_upscaler(model, device=device, settings={"seed": seed}, scale=scale)
        for seed in range(samples)
    ]
    deviations, errors, within = [], [], []
    for path in tiles:
        hr = read_cropped(path, scale)
        lr = block_means(hr, scale)
        outputs = np.stack([upscale_image(lr, scale, model=one) for one in seeded]).astype(float)
        deviations.append(block_rms(outputs.var(0, ddof=1).mean(-1)))
        errors.append(block_rms(((outputs[0] - hr) ** 2).mean(-1)))
        within.append(spearmanr(deviations[-1].ravel(), errors[-1].ravel()).statistic)
    deviation, error = (np.concatenate(blocks).ravel() for blocks in (deviations, errors))
    return {
        "rank_correlation": float(spearmanr(deviation, error).statistic),
        "rank_correlation_within": float(np.nanmean(within)),
        "deviation": float(deviation.mean()),
        "error": float(error.mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one figure a line.

    Raises:
        WsisrError: there are no such tiles, or the model cannot be used.
    """
    parser = make_parser("bench.quality uncertainty", __doc__)
    add_tiles(parser)
    add_scales(parser, "4,8")
    add_model(parser)
    parser.add_argument(
        "--samples", type=int, default=4, help="images made of each tile; default: 4"
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    tiles = list_tiles(options.tiles, options.slides, options.limit)
    result: dict[str, object] = {"model": options.model, "tiles": len(tiles)}
    result["samples"] = options.samples
    for scale in options.scales:
        found = measure(tiles, scale, options.model, options.samples)
        for name, value in found.items():
            print(f"x{scale} {name:28}{value:10.4f}", flush=True)
        result |= {f"x{scale}_{name}": value for name, value in found.items()}
    write_json(options.json, result)
    return 0
