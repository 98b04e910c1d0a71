"""How much time the engine adds to the model, where the model's own goes, and memory.

    python -m bench.speed.engine --slide slides/test_a_5x.tif --scale 8 --json speed.json

Ratios in one run, both sides interleaved: the model alone on windows that are read already, and
the whole engine from file to file on the same region.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import tifffile
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from bench.speed.kernels import measure as measure_kernels
from wsisr.engine import (
    Job,
    Runner,
    default_batch,
    find_resolution,
    one_sample,
    plan_run,
    read_window,
    upscale,
)
from wsisr.models import DualStage, Upscaler, WindowInput, load_upscaler, pick_device
from wsisr.plan import Rect
from wsisr.slides import open_slide, select_view


def engine_against_model(
    slide: Path, scale: float, model: str, side: int, rounds: int
) -> dict[str, float]:
    """Medians over `rounds` of a region of side x side input px.

    Returns:
        engine_vs_model: engine seconds over model seconds; mpix_per_s: of the engine;
        glass_vs_tissue: seconds of a resized window over those of a tissue window; and `shares`.
    """
    device = pick_device(None)
    with open_slide(slide) as opened:
        view = select_view(opened)
        x, y = (view.width - side) // 2, (view.height - side) // 2
        region = Rect(x, y, side, side)
        with tempfile.TemporaryDirectory() as folder:
            job = Job(
                slide,
                Path(folder) / "out.ome.tif",
                scale=scale,
                model=model,
                region=region,
                tissue="off",
                overwrite=True,
            )
            plan = plan_run(job, view, find_resolution(job, view).scale)
            upscaler = load_upscaler(model, device=device, scale=scale)
            batch = default_batch(device)
            windows = [read_window(plan, view, None, w).tissue for w in plan.windows()]
            inputs = [w for w in windows if w is not None]
            alone(upscaler, inputs[:batch], batch)
            model_seconds, engine_seconds, results = [], [], []
            for _ in range(rounds):
                model_seconds.append(alone(upscaler, inputs, batch))
                results.append(upscale(job))
                engine_seconds.append(results[-1].seconds)
    glass = glass_seconds(plan.window)
    return {
        "engine_vs_model": statistics.median(
            e / m for e, m in zip(engine_seconds, model_seconds, strict=True)
        ),
        "mpix_per_s": results[0].width
        * results[0].height
        / 1e6
        / statistics.median(engine_seconds),
        "glass_vs_tissue": glass / (statistics.median(model_seconds) / len(inputs)),
        "windows": len(inputs),
        **shares(upscaler, inputs),
    }


def shares(model: Upscaler, inputs: list[WindowInput]) -> dict[str, float]:
    """{`share PART`: of the model's time that a part of it takes}, one window at a time in one
    thread as the engine has it on a CPU; `rest` is resizing, noise, colour fix and projection.

    Empty for a model that is no `DualStage`.
    """
    if not isinstance(model, DualStage):
        return {}
    parts: dict[str, nn.Module] = {"restoration": model.restoration}
    if model.second is not None:
        vae, diffusion = model.second.vae, model.second.diffusion
        parts |= {"encoder": cast(nn.Module, vae.encoder), "unet": diffusion.unet}
        parts |= {"controlnet": diffusion.controlnet, "decoder": cast(nn.Module, vae.decoder)}
    spent = dict.fromkeys(parts, 0.0)
    handles = [hook for name, part in parts.items() for hook in clock(part, name, spent)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model(inputs[:1])
        spent |= dict.fromkeys(spent, 0.0)
        began = time.perf_counter()
        for window in inputs:
            model([window])
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        total = time.perf_counter() - began
    finally:
        torch.set_num_threads(threads)
        for handle in handles:
            handle.remove()
    spent["rest"] = total - sum(spent.values())
    return {f"share {name}": seconds / total for name, seconds in spent.items()}


def clock(part: nn.Module, name: str, spent: dict[str, float]) -> list[RemovableHandle]:
    """Add the seconds of each call of a module to its entry; the hooks, to be removed."""

    def before(*_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent[name] -= time.perf_counter()

    def after(*_: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent[name] += time.perf_counter()

    return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]


def alone(model: Upscaler, inputs: list[WindowInput], batch: int) -> float:
    """Seconds of the model's forward passes alone, in the engine's own shapes and threads."""
    with Runner(one_sample(model), model.device, batch) as runner:
        began = time.perf_counter()
        for first in range(0, len(inputs), batch):
            runner(inputs[first : first + batch])
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began


def glass_seconds(tile: int) -> float:
    """Seconds to resize one window of glass with noise, scale 8."""
    from wsisr.engine import resize_glass
    from wsisr.plan import make_plan

    plan = make_plan(400, 400, 8, window=tile)
    pixels = np.random.default_rng(0).integers(236, 246, (70, 70, 3), np.uint8)
    up, _ = plan.sampling(plan.columns.stride, plan.columns)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        resize_glass(pixels[: up.shape[1], : up.shape[1]], up, up)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def memory_over_height(
    width: int = 8192, heights: tuple[int, int] = (4096, 16384)
) -> dict[str, float]:
    """Peak RSS of bicubic runs whose outputs differ in height only, each in its own process."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for height in heights:
            source = Path(folder) / f"{height}.tif"
            rng = np.random.default_rng(0)
            tiles = (
                rng.integers(100, 200, (256, 256, 3), np.uint8)
                for _ in range(-(-height // 4 // 256) * (width // 4 // 256))
            )
            shape = (height // 4, width // 4, 3)
            tifffile.imwrite(
                source, tiles, shape=shape, dtype=np.uint8, tile=(256, 256), photometric="rgb"
            )
            command = [sys.executable, "-m", "wsisr", "upscale", str(source)]
            command += [
                f"{source}.ome.tif",
                "--model",
                "bicubic",
                "--scale",
                "4",
                "--tissue",
                "off",
            ]
            done = subprocess.run(
                [*command, "--input-mag", "10", "--json"],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks.append(json.loads(done.stdout)["peak_rss_mb"])
    return {"rss_ratio_4x_height": peaks[1] / peaks[0], "peak_rss_mb": peaks[1]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=8)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--side", type=int, default=168, help="input px of the region's side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures = engine_against_model(args.slide, args.scale, args.model, args.side, args.rounds)
    figures |= memory_over_height()
    figures |= measure_kernels(args.rounds)
    for name, value in figures.items():
        print(f"{name:28}{value:12.4g}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
