"""Measures what time the engine adds to the model, where the model's own goes, and memory.

    python -m bench.speed engine --slide slides/test_a_5x.tif --scale 8 --json speed.json

Ratios in one run, both sides interleaved: the model alone on windows that are read already, and
the whole engine from file to file on the same region.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import tifffile
from torch import nn
from torch.utils.hooks import RemovableHandle

from bench.command import add_json, add_model, make_parser, report, run_module
from bench.speed.clock import one_thread, seconds, wait_for_device
from bench.speed.kernels import measure as measure_kernels
from wsisr.engine import (
    Job,
    Runner,
    WindowReader,
    default_batch,
    find_resolution,
    plan_run,
    resize_glass,
    single_sample,
    upscale,
)
from wsisr.models import DualStage, Upscaler, WindowInput, load_upscaler, pick_device
from wsisr.plan import Rect, make_plan
from wsisr.resize import axis_weights
from wsisr.slides import open_slide, select_view


def engine_against_model(
    slide: Path, scale: float, model: str, side: int, rounds: int, window: int
) -> dict[str, float]:
    """Measures the engine on a region in the middle of a slide, and the model alone on it.

    Args:
        slide: the slide's file.
        scale: over 1.
        model: any model that `wsisr upscale` takes.
        side: of the region, input px.
        rounds: how often both take turns.
        window: side of the model's windows, output px.

    Returns:
        Medians: `engine_vs_model`, engine seconds over model seconds; `mpix_per_s` of the engine;
        `glass_vs_tissue`, seconds of a resized window over those of a tissue window; `windows`;
        and what `shares` returns.
    """
    device = pick_device(None)
    with open_slide(slide) as opened, tempfile.TemporaryDirectory() as folder:
        view = select_view(opened)
        x, y = (view.width - side) // 2, (view.height - side) // 2
        job = Job(
            slide,
            Path(folder) / "out.ome.tif",
            scale=scale,
            model=model,
            region=Rect(x, y, side, side),
            window=window,
            tissue="off",
            overwrite=True,
        )
        plan = plan_run(job, view, find_resolution(job, view).scale)
        upscaler = load_upscaler(model, device=device, scale=scale)
        batch = default_batch(device)
        reader = WindowReader(plan, view, None)
        windows = [reader.read(each).tissue for each in plan.windows()]
        inputs = [w for w in windows if w is not None]
        model_seconds(upscaler, inputs[:batch], batch)
        model_times, engine_times, results = [], [], []
        for _ in range(rounds):
            model_times.append(model_seconds(upscaler, inputs, batch))
            results.append(upscale(job))
            engine_times.append(results[-1].seconds)
    ratios = [e / m for e, m in zip(engine_times, model_times, strict=True)]
    pixels = results[0].width * results[0].height
    tissue_seconds = statistics.median(model_times) / len(inputs)
    return {
        "engine_vs_model": statistics.median(ratios),
        "mpix_per_s": pixels / 1e6 / statistics.median(engine_times),
        "glass_vs_tissue": glass_seconds(window) / tissue_seconds,
        "windows": len(inputs),
        **shares(upscaler, inputs),
    }


def shares(model: Upscaler, inputs: list[WindowInput]) -> dict[str, float]:
    """Measures the share of the model's time that each of its parts takes.

    Windows run one at a time in one thread, as the engine has it on a CPU.

    Args:
        model: the model.
        inputs: windows.

    Returns:
        {`share PART`: share}; `rest` is resizing, noise, colour fix and projection. Empty for a
        model that is no `DualStage`.
    """
    if not isinstance(model, DualStage):
        return {}
    parts: dict[str, nn.Module] = {"restoration": model.restoration}
    if model.second is not None:
        vae, diffusion = model.second.vae, model.second.diffusion
        parts |= {"encoder": cast(nn.Module, vae.encoder), "unet": diffusion.unet}
        parts |= {"controlnet": diffusion.controlnet, "decoder": cast(nn.Module, vae.decoder)}
    with one_thread(), clocked(parts) as spent:
        model(inputs[:1])
        spent |= dict.fromkeys(spent, 0.0)
        total = sum(seconds(partial(model, [window])) for window in inputs)
    spent["rest"] = total - sum(spent.values())
    return {f"share {name}": part / total for name, part in spent.items()}


@contextmanager
def clocked(parts: dict[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Yields {part: seconds of its calls so far}, which grow while the context is open."""
    spent = dict.fromkeys(parts, 0.0)
    handles = [hook for name, part in parts.items() for hook in add_clock(part, name, spent)]
    try:
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def add_clock(part: nn.Module, name: str, spent: dict[str, float]) -> list[RemovableHandle]:
    """Adds the seconds of each call of a module to its entry, and returns the hooks that do so."""

    def before(*_: object) -> None:
        wait_for_device()
        spent[name] -= time.perf_counter()

    def after(*_: object) -> None:
        wait_for_device()
        spent[name] += time.perf_counter()

    return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]


def model_seconds(model: Upscaler, inputs: list[WindowInput], batch: int) -> float:
    """Returns the time of the forward passes alone, in the engine's own shapes and threads."""
    with Runner(single_sample(model), model.device, batch) as runner:

        def run_all() -> None:
            for first in range(0, len(inputs), batch):
                runner(inputs[first : first + batch])

        return seconds(run_all)


def glass_seconds(window: int) -> float:
    """Returns the time to resize one window of glass with noise, scale 8."""
    axis = make_plan(400, 400, 8, window=window).columns
    pixels = np.random.default_rng(0).integers(236, 246, (70, 70, 3), np.uint8)
    weights = axis_weights(axis.stride, axis.window, axis.size, 8, axis.view_size)
    glass = pixels[: weights.up.shape[1], : weights.up.shape[1]]
    return statistics.median(
        seconds(lambda: resize_glass(glass, weights, weights)) for _ in range(20)
    )


def memory_over_height(
    width: int = 8192, heights: tuple[int, int] = (4096, 16384)
) -> dict[str, float]:
    """Measures the peak memory of two bicubic runs, each in its own process.

    Args:
        width: of both outputs, px.
        heights: of the outputs, px.

    Returns:
        `peak_rss_mb` of the second, and `rss_ratio_4x_height`, the second over the first.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for height in heights:
            source = Path(folder) / f"{height}.tif"
            write_noise(source, width // 4, height // 4)
            words = ["upscale", str(source), f"{source}.ome.tif", "--model", "bicubic"]
            words += ["--scale", "4", "--tissue", "off", "--input-mag", "10", "--json"]
            peaks.append(run_module("wsisr", *words)["peak_rss_mb"])
    return {"rss_ratio_4x_height": peaks[1] / peaks[0], "peak_rss_mb": peaks[1]}


def write_noise(path: Path, width: int, height: int, side: int = 256) -> None:
    """Writes a tiled TIFF of noise tile by tile."""
    rng = np.random.default_rng(0)
    count = -(-height // side) * (width // side)
    tiles = (rng.integers(100, 200, (side, side, 3), np.uint8) for _ in range(count))
    shape = (height, width, 3)
    tifffile.imwrite(path, tiles, shape=shape, dtype=np.uint8, tile=(side, side), photometric="rgb")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table.

    Raises:
        WsisrError: the slide or the model cannot be used, or a file cannot be written.
    """
    parser = make_parser("bench.speed engine", __doc__)
    parser.add_argument("--slide", type=Path, required=True, help="file of the slide")
    parser.add_argument("--scale", type=float, default=8, help="over 1; default: 8")
    add_model(parser)
    parser.add_argument(
        "--side", type=int, default=168, help="side of the region, input px; default: 168"
    )
    parser.add_argument(
        "--window",
        type=int,
        default=512,
        help="side of the model's windows, output px; default: 512",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often engine and model take turns; default: 3"
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    figures = engine_against_model(
        options.slide, options.scale, options.model, options.side, options.rounds, options.window
    )
    report({**figures, **memory_over_height(), **measure_kernels(options.rounds)}, options.json)
    return 0
