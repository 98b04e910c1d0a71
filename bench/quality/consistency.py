"""Measures what consistency with the input costs or gains, and whether `exact` is exact.

    python -m bench.quality consistency --tiles tiles/test --scales 2,4,8 --json consistency.json

For each scale and mode: bytes of the low-resolution input that the averaged output differs from,
and PSNR against the real scan.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.command import (
    add_json,
    add_model,
    add_scales,
    add_tiles,
    make_parser,
    name_list,
    write_json,
)
from bench.quality.tiles import block_means, list_tiles, read_cropped
from wsisr.engine import upscale_image
from wsisr.evaluation.measures import psnr
from wsisr.models import load_upscaler, pick_device

MODES = ("off", "soft", "exact")


def measure_mode(tiles: Sequence[Path], scale: int, model: str, mode: str) -> dict[str, float]:
    """Measures how far the averaged output of a model agrees with its input.

    Args:
        tiles: files of real tiles.
        scale: a whole number.
        model: any model that `wsisr upscale` takes.
        mode: one of `MODES`.

    Returns:
        `differing_bytes` of `bytes` of the input, and the mean `psnr` in dB.
    """
    settings = {"consistency": mode}
    loaded = load_upscaler(model, device=pick_device(None), settings=settings, scale=scale)
    differing, total, decibels = 0, 0, []
    for path in tiles:
        hr = read_cropped(path, scale)
        lr = block_means(hr, scale)
        out = upscale_image(lr, scale, model=loaded, exact=mode == "exact")
        differing += int(np.count_nonzero(block_means(out, scale) != lr))
        total += lr.size
        decibels.append(psnr(out, hr))
    return {"differing_bytes": differing, "bytes": total, "psnr": statistics.fmean(decibels)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each scale and mode.

    Raises:
        WsisrError: there are no such tiles, or the model cannot be used.
    """
    parser = make_parser("bench.quality consistency", __doc__)
    add_tiles(parser)
    add_scales(parser, "2,4,8")
    add_model(parser)
    parser.add_argument("--modes", type=name_list, default=",".join(MODES), help="comma-separated")
    add_json(parser)
    options = parser.parse_args(arguments)
    tiles = list_tiles(options.tiles, options.slides, options.limit)
    result: dict[str, object] = {"model": options.model, "tiles": len(tiles)}
    for scale in options.scales:
        for mode in options.modes:
            found = measure_mode(tiles, scale, options.model, mode)
            print(
                f"x{scale} {mode:8}{found['differing_bytes']:12.0f} of {found['bytes']:.0f} bytes "
                f"differ{found['psnr']:10.3f} dB",
                flush=True,
            )
            result |= {f"x{scale}_{mode}_{name}": value for name, value in found.items()}
    write_json(options.json, result)
    return 0
