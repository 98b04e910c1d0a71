r"""Learns the two texts of CLIP-IQA (boxblur) and (Gaussian) on a histology blur set.

    python -m train clip-iqa --data runs/iqa --kind boxblur \
        --out $WSISR_WEIGHTS/clip_iqa_boxblur/prompts.safetensors

The recipe is that of CLIP-IQA+ (Wang, Chan and Loy 2023): CLIP stays frozen, 16 context tokens
before `good photo.` and `bad photo.` are learnt by the squared error against score/10, with SGD at
0.002, a cosine and batches of 64. CLIP never changes, so each image's features are computed once
and cached beside the set. The result is what `wsisr.evaluation.measures` reads. Beside it lie a CSV
log and, while the training lasts, its state: a run that was cut goes on as if it had not been.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass as config_dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from train.config import STRICT_KEYS, Count, CountOrZero, Flag, Fraction, Weight, build
from train.errors import TrainingDivergedError
from train.iqa.dataset import BEST, STEPS, Item, of_kind, read_manifest
from train.loop import make_parser, run_and_report
from wsisr.errors import ModelError, UsageError
from wsisr.evaluation.measures import (
    Image,
    Prompts,
    load_clip,
    prompt_features,
    save_prompts,
    score,
)
from wsisr.evaluation.networks import Clip
from wsisr.evaluation.pairing import read_image
from wsisr.evaluation.weights import cached_sha256, find_weights, renew_pin
from wsisr.files import write_atomic


@config_dataclass(frozen=True, config=STRICT_KEYS)
class Config:
    """The published settings, but for the iterations (100 000 for 10 073 photographs there).

    Attributes:
        tokens: number of context tokens.
        shared: whether both texts have one context.
        iterations: length of the schedule.
        batch: images an iteration.
        learning_rate: learning rate of SGD at the start; it falls along a cosine to 0.
        momentum: momentum of SGD.
        held_out: share of the slides (of the tiles where there is one slide) that is judged only.
        seed: seed of tokens, batches and what is held out.
        save_every: iterations between two saved states.
    """

    tokens: Count = 16
    shared: Flag = False
    iterations: Count = 20_000
    batch: Count = 64
    learning_rate: Weight = 0.002
    momentum: Weight = 0.9
    held_out: Fraction = 0.1
    seed: CountOrZero = 0
    save_every: Count = 500


def image_features(clip: Clip, folder: Path, items: Sequence[Item], clip_sha256: str) -> Tensor:
    """Computes the unit vectors of the images, or reads them from the cache.

    The cache is bound to the CLIP weights and to the files' content.

    Args:
        clip: the network.
        folder: folder of the set.
        items: lines of its manifest.
        clip_sha256: hash of the network's weights.

    Returns:
        (n, outputs) float32 on the CPU.

    Raises:
        UsageError: a file is not the one of the manifest.
    """
    key = hashlib.sha256("\n".join([clip_sha256, *(item.sha256 for item in items)]).encode())
    cache = folder / f"features-{key.hexdigest()[:16]}.safetensors"
    try:
        cached: Tensor = load_file(cache)["features"]
        return cached
    except (SafetensorError, OSError, KeyError):
        pass  # not there yet, or not ours: computed below
    found = []
    device = clip.logit_scale.device
    with torch.inference_mode():
        for item in tqdm(items, unit="image", desc="CLIP", disable=None):
            pixels = torch.from_numpy(_checked_image(folder, item)).permute(2, 0, 1)[None]
            found.append(clip.image_features(pixels.to(device) / 255.0).float().cpu())
    features = torch.cat(found)
    unfinished = cache.with_suffix(".partial")
    save_file({"features": features}, unfinished)
    unfinished.replace(cache)
    return features


def _checked_image(folder: Path, item: Item) -> Image:
    """Reads an image of the set, which must be the one of the manifest."""
    path = folder / item.file
    if not path.exists() or cached_sha256(path) != item.sha256:
        raise UsageError(f"{path} is missing or has changed; run python -m train iqa-dataset again")
    return read_image(path)


def split(items: Sequence[Item], held_out: float, seed: int) -> np.ndarray:
    """Chooses which items are held out: whole slides, or whole tiles of one slide.

    Args:
        items: lines of the manifest.
        held_out: share of the slides or tiles.
        seed: of the choice.

    Returns:
        (n,) bool.

    Raises:
        UsageError: all items come from one tile.
    """
    groups = [item.source.rpartition("/")[0] for item in items]
    if len(set(groups)) == 1:
        groups = [item.source for item in items]
    names = sorted(set(groups))
    if len(names) == 1:
        raise UsageError("the set comes from one tile; none is left to judge the prompts by")
    count = max(1, round(held_out * len(names)))
    chosen = np.random.default_rng(seed).permutation(len(names))[:count]
    held = {names[index] for index in chosen}
    return np.array([group in held for group in groups])


@dataclass
class Progress:
    """Where the training stands: all that a resumed run needs.

    Attributes:
        iteration: number of iterations that were done.
        context: the learnt tokens, (2 or 1, tokens, width).
        momentum: SGD's, of the same shape.
        losses: one an iteration.
    """

    iteration: int
    context: Tensor
    momentum: Tensor
    losses: list[float]


def begin(width: int, config: Config) -> Progress:
    """Makes the start: small random tokens, as the seed gives them."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (1 if config.shared else 2, config.tokens, width)
    return Progress(0, 0.02 * torch.randn(shape, generator=generator), torch.zeros(shape), [])


def learn(
    clip: Clip,
    features: Tensor,
    scores: Tensor,
    config: Config,
    progress: Progress,
    *,
    save: Callable[[Progress], None],
    minutes: float | None = None,
) -> None:
    """Carries `progress` on to the end of the schedule, or until `minutes` are over.

    A batch is a function of the seed and the iteration.

    Args:
        clip: the network, which is frozen.
        features: unit vectors of the images, (n, outputs).
        scores: (n,) in [0, 1].
        config: the schedule.
        progress: where the training stands; it is changed.
        save: is given the progress every `save_every` iterations and when the time is over.
        minutes: time that it may take; None runs to the end.

    Raises:
        TrainingDivergedError: the loss is not finite.
    """
    clip.requires_grad_(False)
    device = clip.logit_scale.device
    context = progress.context.to(device).requires_grad_()
    optimizer = torch.optim.SGD([context], lr=config.learning_rate, momentum=config.momentum)
    optimizer.state[context]["momentum_buffer"] = progress.momentum.to(device)
    began = time.monotonic()
    for iteration in range(progress.iteration, config.iterations):
        fall = 0.5 * (1 + math.cos(math.pi * iteration / config.iterations))
        optimizer.param_groups[0]["lr"] = config.learning_rate * fall
        random = np.random.default_rng([config.seed, iteration])
        batch = torch.from_numpy(random.integers(len(scores), size=config.batch))
        text = prompt_features(clip, context)
        found = score(features[batch].to(device), text, clip.logit_scale)
        loss = F.mse_loss(found, scores[batch].to(device))
        if not torch.isfinite(loss):
            raise TrainingDivergedError(f"iteration {iteration}: the loss is {float(loss)}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.iteration = iteration + 1
        progress.context = context.detach().cpu()
        progress.momentum = optimizer.state[context]["momentum_buffer"].detach().cpu()
        progress.losses.append(float(loss.detach()))
        over = minutes is not None and time.monotonic() - began > 60 * minutes
        if over or progress.iteration % config.save_every == 0:
            save(progress)
        if over:
            return


def load_progress(file: Path, binding: str) -> Progress | None:
    """Reads what a cut run left, None where there is none.

    Args:
        file: the state.
        binding: hash of set, CLIP and schedule.

    Raises:
        ModelError: the file cannot be read.
        UsageError: it is of another set, CLIP or schedule.
    """
    if not file.exists():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{file} cannot be read ({error}); delete it to begin anew") from error
    if state.pop("binding", None) != binding:
        raise UsageError(f"{file} is of another set, CLIP or schedule; delete it or give --out")
    return Progress(**state)


def _save(out: Path, binding: str, progress: Progress) -> None:
    """Writes the state and the log."""
    state = io.BytesIO()
    torch.save({"binding": binding, **vars(progress)}, state)
    write_atomic(out.with_suffix(".state.pt"), state.getvalue())
    _write_log(out, progress)


def _write_log(out: Path, progress: Progress) -> None:
    """Writes the mean loss of every 20 iterations, whole: a resumed run leaves no line twice."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["iteration", "loss"])
    done = range(20, len(progress.losses) + 1, 20)
    writer.writerows([n, f"{np.mean(progress.losses[n - 20 : n]):.6f}"] for n in done)
    write_atomic(out.with_suffix(".csv"), text.getvalue().encode())


def train(
    folder: Path,
    kind: str,
    clip_file: Path,
    out: Path,
    config: Config,
    *,
    minutes: float | None = None,
) -> dict[str, float] | None:
    """Learns the prompts of one set and writes them to `out`.

    Args:
        folder: folder of the sets.
        kind: `boxblur` or `gaussian`.
        clip_file: weights of CLIP RN50.
        out: file of the prompts.
        config: the schedule.
        minutes: time that it may take; None runs to the end.

    Returns:
        What was measured; None where the time was over first, and the same call goes on.

    Raises:
        ModelError: the CLIP weights cannot be read.
        UsageError: the set is unfinished or has changed, or the state is of another training.
    """
    from scipy.stats import spearmanr

    items = of_kind(read_manifest(folder), kind)
    clip, clip_sha256 = load_clip(clip_file), cached_sha256(clip_file)
    features = image_features(clip, folder, items, clip_sha256)
    scores = torch.tensor([item.score / BEST for item in items])
    held = split(items, config.held_out, config.seed)
    keep = torch.from_numpy(~held)
    out.parent.mkdir(parents=True, exist_ok=True)
    listed = "\n".join([clip_sha256, repr(config), *(f"{i.sha256} {i.source}" for i in items)])
    binding = hashlib.sha256(listed.encode()).hexdigest()
    width = clip.token_embedding.weight.shape[1]
    progress = load_progress(out.with_suffix(".state.pt"), binding) or begin(width, config)
    save = partial(_save, out, binding)
    learn(clip, features[keep], scores[keep], config, progress, save=save, minutes=minutes)
    if progress.iteration < config.iterations:
        return None
    losses = progress.losses
    with torch.inference_mode():
        text = prompt_features(clip, progress.context.to(clip.logit_scale.device))
        judged = score(features[~keep].to(text.device), text, clip.logit_scale).cpu()
    edge = max(1, config.iterations // 10)
    figures = {
        "first_loss": float(np.mean(losses[:edge])),
        "last_loss": float(np.mean(losses[-edge:])),
        "held_out_mse": float(F.mse_loss(judged, scores[~keep])),
        "held_out_rank_correlation": float(spearmanr(judged.numpy(), scores[~keep].numpy())[0]),
    }
    notes = {name: f"{value:.6g}" for name, value in figures.items()}
    save_prompts(out, Prompts(text.cpu(), progress.context, kind, clip_sha256, notes))
    # prompts learnt again are no file that somebody has changed
    renew_pin(out)
    _write_log(out, progress)
    out.with_suffix(".state.pt").unlink(missing_ok=True)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains from the command line; returns the exit code."""
    parser = make_parser("clip-iqa", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the blur sets")
    parser.add_argument("--kind", choices=list(STEPS), required=True, help="which set to learn on")
    parser.add_argument("--clip", type=Path, help="CLIP RN50; default: WSISR_WEIGHTS/clip_rn50")
    parser.add_argument("--out", type=Path, required=True, help="prompts.safetensors to write")
    parser.add_argument(
        "--iterations", type=int, default=Config.iterations, help="length of the schedule"
    )
    parser.add_argument("--seed", type=int, default=Config.seed, help="seed of all that is drawn")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same call goes on")
    args = parser.parse_args(arguments)

    def work() -> None:
        config = build(Config, {"iterations": args.iterations, "seed": args.seed})
        clip = args.clip or find_weights("clip_rn50")["RN50.pt"]
        if not clip.is_file():
            raise UsageError(f"{clip} is no file; give CLIP's RN50.pt by --clip")
        figures = train(args.data, args.kind, clip, args.out, config, minutes=args.minutes)
        if figures is None:
            print("the time is over; the same command goes on")
            return
        for name, value in figures.items():
            print(f"{name}: {value:.4f}")

    return run_and_report(work, args.out)
