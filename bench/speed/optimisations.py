"""What each optimisation of the model gains on this machine.

    python -m bench.speed.optimisations --json optimisations.json

Each is measured against the model without it, one after the other in turn in the same run, on one
window (and one thread, on a CPU) as the engine runs it there. Columns: the ratio of times, over 1
where the optimisation gains (median over the rounds, and the least and largest), and how far the
image changes at most, in grey levels. Rows:

channels_last   weights and images with channels innermost
sdpa            fused attention against softmax(q k^T + bias) v written out, in all networks
compile         --compile: torch.compile of each block
bf16            --precision bf16: autocast
cached_prompt   the blank prompt's embedding kept, against a text encoder of OpenCLIP-H's size
                (random weights) run for every window
batched_decode  --decode windows decoded in one batch against one by one
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsisr.models import DualStage, compile_blocks, load_upscaler, pick_device, run_stages
from wsisr.models.networks import channels_last, decode, latent_factor

Task = Callable[[], Tensor]


def forward(model: DualStage, image: Tensor, noise: Tensor, dtype: torch.dtype) -> Tensor:
    """Runs both stages on a resized window, without what is no network's work."""
    settings = replace(model.settings, fidelity=0.0, color_fix="none")
    noises = [lambda _step, _shape: noise]
    _, images = run_stages(
        model.restoration, model.second, settings, image, None, noises, dtype=dtype
    )
    return next(images)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> Tensor:
    """`scaled_dot_product_attention` written out."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


@contextmanager
def attention(function: Callable[..., Tensor]) -> Iterator[None]:
    """Let all networks attend by `function`."""
    kept = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        F.scaled_dot_product_attention = kept


def text_encoder() -> nn.Module:
    """A transformer of the size of OpenCLIP-H's text tower up to its penultimate layer."""
    layer = nn.TransformerEncoderLayer(1024, 16, 4096, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 23, enable_nested_tensor=False).eval()


def compare(without: Task, with_it: Task, rounds: int) -> dict[str, float]:
    """Ratio of times over rounds in which both take turns, after one that warms up, and change."""
    before, after = without(), with_it()
    ratios = []
    for _ in range(rounds):
        seconds = [timed(task) for task in (without, with_it)]
        ratios.append(seconds[0] / seconds[1])
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "change": 255 * float((before.clamp(0, 1) - after.clamp(0, 1)).abs().max()),
    }


def timed(task: Task) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.inference_mode()
def measure(
    name: str, tile: int, rounds: int, windows: int, only: list[str] | None
) -> Iterator[tuple[str, dict[str, float]]]:
    """Each optimisation's name and figures."""
    device = pick_device(None)
    settings = {"precision": "fp32"}
    model = load_upscaler(name, device=device, settings=settings, scale=4)
    if not isinstance(model, DualStage) or model.second is None:
        raise SystemExit(f"--model {name}: a model with both stages is needed")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, tile // 4, tile // 4, generator=generator)
    image = F.interpolate(image, scale_factor=4, mode="bicubic").clamp(0, 1).to(device)
    image = image.contiguous(memory_format=torch.channels_last)
    side = tile // latent_factor(model.second.vae)
    channels = model.second.vae.config.latent_channels
    noise = torch.randn(1, channels, side, side, generator=generator).to(device)

    def run(
        of: DualStage = model, given: Tensor = image, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        return forward(of, given, noise, dtype)

    def wanted(row: str) -> bool:
        return only is None or row in only

    if wanted("channels_last"):
        plain = copy.deepcopy(model)
        cast(Any, plain).to(memory_format=torch.contiguous_format)
        given = image.contiguous()
        yield "channels_last", compare(lambda: run(plain, given), run, rounds)
    if wanted("sdpa"):

        def written_out() -> Tensor:
            with attention(plain_attention):
                return run()

        yield "sdpa", compare(written_out, run, rounds)
    if wanted("compile"):
        compiled = channels_last(copy.deepcopy(model))
        compile_blocks(compiled)
        yield "compile", compare(run, lambda: run(compiled), rounds)
    if wanted("bf16"):
        yield "bf16", compare(run, lambda: run(dtype=torch.bfloat16), rounds)
    if wanted("cached_prompt"):
        encoder, tokens = text_encoder().to(device), torch.randn(1, 77, 1024).to(device)

        def encoding() -> Tensor:
            encoder(tokens)
            return run()

        yield "cached_prompt", compare(encoding, run, rounds)
    if wanted("batched_decode"):
        vae = model.second.vae
        latents = torch.randn(windows, channels, side, side, generator=generator).to(device)

        def one_by_one() -> Tensor:
            return torch.cat([decode(vae, each[None]) for each in latents])

        yield "batched_decode", compare(one_by_one, lambda: decode(vae, latents), rounds)


def machine() -> str:
    """The processor that was measured."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        names = [line for line in described.read_text().splitlines() if "model name" in line]
        cpu = names[0].partition(": ")[2] if names else cpu
    return f"{cpu}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny or the folder of another model")
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--decode", type=int, default=4, help="windows of batched_decode")
    parser.add_argument("--only", help="comma-separated rows")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, Any] = {"machine": machine(), "model": args.model, "tile": args.tile}
    print(table["machine"])
    print(f"{'':16}{'ratio':>8}{'least':>8}{'largest':>9}{'change':>9}")
    only = args.only.split(",") if args.only else None
    for name, found in measure(args.model, args.tile, args.rounds, args.decode, only):
        print(
            f"{name:16}{found['ratio']:8.3f}{found['least']:8.3f}{found['largest']:9.3f}"
            f"{found['change']:9.3f}",
            flush=True,
        )
        table |= {f"{name}_{key}": value for key, value in found.items()}
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
