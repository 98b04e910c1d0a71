"""Stage 1: train the restoration module (Histo-Diffusion 2024, equation 1).

accelerate launch -m train.stage1 --config train/configs/tiny.yaml --data tiles --out runs/s1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.command import parse
from train.data import TileSet, batch_rng, load_tiles, part, random_crops, to_tensor
from train.degradation import agree, degrade, upsample
from train.loop import LoopConfig, Losses, train
from wsisr.models.loading import load_state
from wsisr.models.restoration import SwinIR, channels_last

PICTURES = 4
"""Validation tiles that are shown."""


@dataclass(frozen=True)
class Stage1Config:
    """Section `stage1` of a config.

    Attributes:
        model: arguments of `SwinIR`.
        batch: crops an iteration and process.
        crop: side of a crop in px.
        scales: one is drawn for each iteration, with probability `scale_weights`.
        degradation: see `train.degradation.degrade`.
        loss: `mse` (the paper) or `l1`.
        consistent: take the loss after the projection onto agreement with the input, as inference
            does with soft consistency: the network then spends itself on what the input leaves
            open. Off in the paper.
        init: folder with weights to start from (a `restoration` part); empty to start anew.
        loop: see `LoopConfig`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    batch: int = 16
    crop: int = 512
    scales: tuple[int, ...] = (4,)
    scale_weights: tuple[float, ...] = (1.0,)
    degradation: str = "scanner"
    loss: str = "mse"
    consistent: bool = False
    init: str = ""
    loop: LoopConfig = field(default_factory=LoopConfig)


def draw_scale(seed: int, iteration: int, scales: Sequence[int], weights: Sequence[float]) -> int:
    """The scale of an iteration: the same on all processes, so that they work on equal shapes."""
    chance = batch_rng(seed, iteration, 2**31).random()
    edges = torch.tensor(weights).cumsum(0)
    return scales[int((chance * edges[-1] >= edges).sum())]


def make_pair(
    config: Stage1Config, tiles: TileSet, iteration: int, rank: int
) -> tuple[Tensor, Tensor]:
    """Low resolution (B, 3, crop / scale, crop / scale) and high (B, 3, crop, crop), in [0, 1]."""
    rng = batch_rng(config.loop.seed, iteration, rank)
    scale = draw_scale(config.loop.seed, iteration, config.scales, config.scale_weights)
    hr = random_crops(tiles, rng, config.batch, config.crop)
    return degrade(hr, scale, rng, config.degradation), hr


def validation_psnr(model: nn.Module, tiles: TileSet, scales: tuple[int, ...]) -> dict[str, float]:
    """PSNR in dB over the tiles for area-averaged inputs: bicubic, the restored image, and that
    image in agreement with the input (what `--model restore` gives)."""
    figures: dict[str, float] = {}
    device = next(model.parameters()).device
    for scale in scales:
        errors: dict[str, list[float]] = {"bicubic": [], "network": [], "restore": []}
        for tile in tiles.pixels:
            hr = to_tensor(tile[None])
            lr = (F.avg_pool2d(hr, scale) * 255).round() / 255
            resized = upsample(lr, scale).clamp(0, 1)
            network = model(resized.to(device)).clamp(0, 1).cpu()
            images = {
                "bicubic": resized,
                "network": network,
                "restore": agree(network, lr).clamp(0, 1),
            }
            for name, image in images.items():
                errors[name].append(float(-10 * torch.log10(F.mse_loss(image, hr))))
        for name, values in errors.items():
            figures[f"{name}_x{scale}"] = round(sum(values) / len(values), 3)
    return figures


def main() -> None:
    """Run the stage."""
    args, config = parse(__doc__ or "", "stage1", Stage1Config)
    tiles = load_tiles(args.data / "train", args.limit)
    val = load_tiles(args.data / "val", min(args.limit or 16, 16))
    torch.manual_seed(config.loop.seed)
    network = SwinIR(**config.model)
    if config.init:
        network.load_state_dict(load_state(Path(config.init)))
    model = channels_last(network)

    def step(module: nn.Module, iteration: int) -> Losses:
        lr, hr = make_pair(config, tiles, iteration, part())
        device = next(module.parameters()).device
        resized = upsample(lr, config.crop // lr.shape[2])
        restored = module(resized.to(device, memory_format=torch.channels_last))
        if config.consistent:
            # half precision would leave a grey level of disagreement
            with torch.autocast(device.type, enabled=False):
                restored = agree(restored.float(), lr)
        loss = F.l1_loss if config.loss == "l1" else F.mse_loss
        return {"loss": loss(restored, hr.to(device))}

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged = SwinIR(**config.model).eval()
        averaged.load_state_dict(state)
        averaged.save_pretrained(args.out / "restoration")
        with torch.inference_mode():
            return validation_psnr(averaged, val, config.scales)

    def pictures(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, Tensor]:
        averaged = SwinIR(**config.model).eval()
        averaged.load_state_dict(state)
        scale = max(config.scales)
        hr = to_tensor(val.pixels[:PICTURES])[..., : config.crop, : config.crop]
        lr = (F.avg_pool2d(hr, scale) * 255).round() / 255
        with torch.inference_mode():
            restored = averaged(upsample(lr, scale).clamp(0, 1))
        return {"LR": lr, "restored": restored, "HR": hr}

    train(
        config.loop,
        model,
        args.out,
        step,
        validate=validate,
        minutes=args.minutes,
        pictures=pictures,
    )


if __name__ == "__main__":
    main()
