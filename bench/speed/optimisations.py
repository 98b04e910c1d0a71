"""Measures what each optimisation of the model gains on this machine.

    python -m bench.speed optimisations --json optimisations.json

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

import copy
import math
import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.command import add_json, add_model, make_parser, name_list, write_json
from bench.speed.clock import take_turns
from wsisr.errors import OptionError
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
    """Attends as `scaled_dot_product_attention` does, written out."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


@contextmanager
def attention(function: Callable[..., Tensor]) -> Iterator[None]:
    """Lets all networks attend by `function`."""
    kept = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = function
    try:
        yield
    finally:
        F.scaled_dot_product_attention = kept


def text_encoder() -> nn.Module:
    """Returns a transformer of the size of OpenCLIP-H's text tower up to its penultimate layer."""
    layer = nn.TransformerEncoderLayer(1024, 16, 4096, activation="gelu", batch_first=True)
    return nn.TransformerEncoder(layer, 23, enable_nested_tensor=False).eval()


def compare(without: Task, with_it: Task, rounds: int) -> dict[str, float]:
    """Compares the times and the images of two tasks.

    Args:
        without: returns an image of 0..1, without the optimisation.
        with_it: returns it with the optimisation.
        rounds: in which both take turns.

    Returns:
        `ratio` of the times, the median; its `least` and `largest`; `change`, the largest
        difference of the images in grey levels.
    """
    before, after = without(), with_it()
    times = take_turns({"without": without, "with": with_it}, rounds)
    ratios = [one / other for one, other in zip(times["without"], times["with"], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "change": 255 * float((before.clamp(0, 1) - after.clamp(0, 1)).abs().max()),
    }


@dataclass(frozen=True)
class Subject:
    """A model and the window that it is measured on.

    Attributes:
        model: a model with both stages.
        image: the window, resized, (1, 3, h, w), 0..1.
        noise: of the sampler, (1, channels, h / factor, w / factor).
        dtype: of the networks' arithmetic.
        decoded: how many windows `batched_decode` decodes at once.
    """

    model: DualStage
    image: Tensor
    noise: Tensor
    dtype: torch.dtype = torch.float32
    decoded: int = 4

    def run(self) -> Tensor:
        """Upscales the window."""
        return forward(self.model, self.image, self.noise, self.dtype)


def load_subject(name: str, window: int, decoded: int) -> Subject:
    """Loads a model and makes a window of noise for it.

    Args:
        name: any model that `wsisr upscale` takes, with both stages.
        window: side of the window, output px.
        decoded: how many windows `batched_decode` decodes at once.

    Raises:
        OptionError: the model lacks a stage.
        ModelError: the model is not there, or broken.
    """
    device = pick_device(None)
    model = load_upscaler(name, device=device, settings={"precision": "fp32"}, scale=4)
    if not isinstance(model, DualStage) or model.second is None:
        raise OptionError("model", name, "a model with both stages is needed")
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, window // 4, window // 4, generator=generator)
    image = F.interpolate(image, scale_factor=4, mode="bicubic").clamp(0, 1).to(device)
    image = image.contiguous(memory_format=torch.channels_last)
    side = window // latent_factor(model.second.vae)
    channels = model.second.vae.config.latent_channels
    noise = torch.randn(1, channels, side, side, generator=generator).to(device)
    return Subject(model, image, noise, decoded=decoded)


def channels_last_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the model with channels outermost, and as it is."""
    plain = copy.deepcopy(subject.model)
    cast(Any, plain).to(memory_format=torch.contiguous_format)
    return replace(subject, model=plain, image=subject.image.contiguous()).run, subject.run


def sdpa_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the model with attention written out, and as it is."""

    def written_out() -> Tensor:
        with attention(plain_attention):
            return subject.run()

    return written_out, subject.run


def compile_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the model as it is, and compiled."""
    compiled = channels_last(copy.deepcopy(subject.model))
    compile_blocks(compiled)
    return subject.run, replace(subject, model=compiled).run


def bf16_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the model in fp32, and in bf16."""
    return subject.run, replace(subject, dtype=torch.bfloat16).run


def cached_prompt_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the model with a text encoder before it, and as it is."""
    device = subject.image.device
    encoder, tokens = text_encoder().to(device), torch.randn(1, 77, 1024).to(device)

    def encoding() -> Tensor:
        encoder(tokens)
        return subject.run()

    return encoding, subject.run


def batched_decode_pair(subject: Subject) -> tuple[Task, Task]:
    """Returns the decoder on one window after the other, and on all in one batch."""
    assert subject.model.second is not None
    vae, noise = subject.model.second.vae, subject.noise
    generator = torch.Generator().manual_seed(1)
    shape = (subject.decoded, *noise.shape[1:])
    latents = torch.randn(shape, generator=generator).to(noise.device)

    def one_by_one() -> Tensor:
        return torch.cat([decode(vae, each[None]) for each in latents])

    return one_by_one, lambda: decode(vae, latents)


PAIRS: dict[str, Callable[[Subject], tuple[Task, Task]]] = {
    "channels_last": channels_last_pair,
    "sdpa": sdpa_pair,
    "compile": compile_pair,
    "bf16": bf16_pair,
    "cached_prompt": cached_prompt_pair,
    "batched_decode": batched_decode_pair,
}
"""{row: makes the task without the optimisation and the task with it}."""


def machine() -> str:
    """Returns the name of the processor that was measured."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpu = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.is_file():
        names = [line for line in described.read_text().splitlines() if "model name" in line]
        cpu = names[0].partition(": ")[2] if names else cpu
    return f"{cpu}, {torch.backends.cpu.get_cpu_capability()}, 1 thread"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each optimisation.

    Raises:
        WsisrError: the model cannot be used, or a file cannot be written.
    """
    parser = make_parser("bench.speed optimisations", __doc__)
    add_model(parser)
    parser.add_argument(
        "--window", type=int, default=512, help="side of the window, output px; default: 512"
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="how often both sides take turns; default: 9"
    )
    parser.add_argument(
        "--decode",
        type=int,
        default=4,
        help="windows that batched_decode decodes at once; default: 4",
    )
    parser.add_argument(
        "--only",
        type=name_list,
        default=list(PAIRS),
        help="rows, separated by commas; default: all",
    )
    add_json(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(PAIRS):
        raise OptionError("only", ",".join(sorted(unknown)), f"choose from {', '.join(PAIRS)}")
    torch.set_num_threads(1)
    figures: dict[str, object] = {"machine": machine(), "model": options.model}
    figures["window"] = options.window
    print(figures["machine"])
    print(f"{'':16}{'ratio':>8}{'least':>8}{'largest':>9}{'change':>9}")
    with torch.inference_mode():
        subject = load_subject(options.model, options.window, options.decode)
        for name in options.only:
            found = compare(*PAIRS[name](subject), options.rounds)
            print(
                f"{name:16}{found['ratio']:8.3f}{found['least']:8.3f}{found['largest']:9.3f}"
                f"{found['change']:9.3f}",
                flush=True,
            )
            figures |= {f"{name}_{key}": value for key, value in found.items()}
    write_json(options.json, figures)
    return 0
