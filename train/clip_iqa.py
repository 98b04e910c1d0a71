"""CLIP-IQA (boxblur) and (Gaussian): learn the two texts on a histology blur set.

    python -m train.clip_iqa --data runs/iqa --kind boxblur --clip RN50.pt --out prompts.safetensors

As CLIP-IQA+ (Wang, Chan and Loy 2023): CLIP stays frozen, 16 context tokens before `good photo.`
and `bad photo.` are learnt by the squared error against score/10; SGD at 0.002 with a cosine,
batches of 64. CLIP never changes, so each image's features are computed once and cached beside
the set. The result is what `wsisr.evaluation.clip_iqa` reads.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from train.iqa_dataset import BEST, STEPS, Item, of_kind, read_manifest
from wsisr.errors import WsisrError
from wsisr.evaluation import weights
from wsisr.evaluation.clip_iqa import Prompts, load_clip, prompt_features, save_prompts, score
from wsisr.evaluation.networks.clip import Clip
from wsisr.evaluation.sources import read_image


@dataclass(frozen=True)
class Config:
    """The published settings, but for the iterations (100 000 for 10 073 photographs there)."""

    tokens: int = 16
    shared: bool = False
    """One context for both texts."""
    iterations: int = 20_000
    batch: int = 64
    learning_rate: float = 0.002
    momentum: float = 0.9
    held_out: float = 0.1
    """Share of the sources (tiles) that is only judged, never learnt from."""
    seed: int = 0


def image_features(clip: Clip, folder: Path, items: Sequence[Item], clip_sha256: str) -> Tensor:
    """Return the unit vectors of the images, (n, outputs), from the cache where it stands.

    The cache is bound to the CLIP weights and to the list of files.
    """
    key = hashlib.sha256("\n".join([clip_sha256, *(item.file for item in items)]).encode())
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
            pixels = torch.from_numpy(read_image(folder / item.file)).permute(2, 0, 1)[None]
            found.append(clip.image_features(pixels.to(device) / 255.0).float().cpu())
    features = torch.cat(found)
    unfinished = cache.with_suffix(".partial")
    save_file({"features": features}, unfinished)
    unfinished.replace(cache)
    return features


def split(items: Sequence[Item], held_out: float, seed: int) -> np.ndarray:
    """Return which items are held out, (n,) bool: whole tiles, never parts of one."""
    sources = sorted({item.source for item in items})
    count = max(1, round(held_out * len(sources)))
    chosen = np.random.default_rng(seed).permutation(len(sources))[:count]
    held = {sources[index] for index in chosen}
    return np.array([item.source in held for item in items])


def learn(clip: Clip, features: Tensor, scores: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """Return the learnt context, (2 or 1, tokens, width), and the losses, (iterations,).

    `features` (n, outputs) are unit vectors, `scores` (n,) lie in 0..1. Raises
    `FloatingPointError` where the loss is no longer finite.
    """
    clip.requires_grad_(False)
    generator = torch.Generator().manual_seed(config.seed)
    width = clip.token_embedding.weight.shape[1]
    start = torch.randn(1 if config.shared else 2, config.tokens, width, generator=generator)
    context = (0.02 * start).to(clip.logit_scale.device).requires_grad_()
    optimizer = torch.optim.SGD([context], lr=config.learning_rate, momentum=config.momentum)
    losses = torch.empty(config.iterations)
    for iteration in tqdm(range(config.iterations), desc="prompts", disable=None):
        progress = iteration / config.iterations
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        batch = torch.randint(len(scores), (config.batch,), generator=generator)
        found = score(
            features[batch].to(context.device), prompt_features(clip, context), clip.logit_scale
        )
        loss = F.mse_loss(found, scores[batch].to(context.device))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"iteration {iteration}: the loss is {float(loss)}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses[iteration] = loss.detach()
    return context.detach(), losses


def train(folder: Path, kind: str, clip_file: Path, out: Path, config: Config) -> dict[str, float]:
    """Learn the prompts of one set, write them to `out`, return what was measured.

    Raises `ModelError` for CLIP weights that cannot be read, `FileNotFoundError` for an
    unfinished set.
    """
    from scipy.stats import spearmanr

    items = of_kind(read_manifest(folder), kind)
    clip, digest = load_clip(clip_file), weights.digest(clip_file)
    features = image_features(clip, folder, items, digest)
    scores = torch.tensor([item.score / BEST for item in items])
    held = split(items, config.held_out, config.seed)
    keep = torch.from_numpy(~held)
    context, losses = learn(clip, features[keep], scores[keep], config)
    with torch.inference_mode():
        text = prompt_features(clip, context)
        judged = score(features[~keep].to(text.device), text, clip.logit_scale).cpu()
    edge = max(1, config.iterations // 10)
    figures = {
        "first_loss": float(losses[:edge].mean()),
        "last_loss": float(losses[-edge:].mean()),
        "held_out_mse": float(F.mse_loss(judged, scores[~keep])),
        "held_out_rank_correlation": float(spearmanr(judged.numpy(), scores[~keep].numpy())[0]),
    }
    notes = {name: f"{value:.6g}" for name, value in figures.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_prompts(out, Prompts(text, context, kind, digest, notes))
    return figures


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of train.iqa_dataset")
    parser.add_argument("--kind", choices=list(STEPS), required=True)
    parser.add_argument("--clip", type=Path, required=True, help="CLIP RN50 weights")
    parser.add_argument("--out", type=Path, required=True, help="prompts.safetensors")
    parser.add_argument("--iterations", type=int, default=Config.iterations)
    parser.add_argument("--seed", type=int, default=Config.seed)
    args = parser.parse_args()
    config = Config(iterations=args.iterations, seed=args.seed)
    try:
        figures = train(args.data, args.kind, args.clip, args.out, config)
    except (WsisrError, FileNotFoundError) as error:
        parser.error(str(error))
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")


if __name__ == "__main__":
    main()
