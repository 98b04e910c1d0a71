"""The plain baseline: a residual network, first by L1, then with a patch adversary.

    accelerate launch -m train.plain --config train/configs/tiny.yaml --data tiles --out runs/plain

It has the data, degradations, losses and projection of the dual-stage model, and no diffusion:
what the diffusion model has to beat. `OUT/model` serves as `wsisr upscale --model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from train.command import parse
from train.data import batch_rng, load_tiles, part, random_crops
from train.degradation import agree, degrade, upsample
from train.judge import judge
from train.loop import LoopConfig, Losses, train
from train.losses import ImageLoss, PatchDiscriminator, beside, hinge_discriminator
from train.stage1 import draw_scale
from wsisr.models import ModelCard, from_pretrained, save_pretrained
from wsisr.models.plain import PlainNet
from wsisr.models.restoration import channels_last


@dataclass(frozen=True)
class PlainConfig:
    """Section `plain` of a config; the fields are those of `train.distill`.

    Attributes:
        model: arguments of `PlainNet`.
        batch, crop: crops an iteration and process, side in px.
        scales, scale_weights: one is drawn for each iteration.
        degradation: see `train.degradation.degrade`.
        loss: see `ImageLoss`; until `adversarial_from` it is L1 alone.
        judged: validation tiles that `train.judge` looks at.
        loop: see `LoopConfig`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    batch: int = 8
    crop: int = 128
    scales: tuple[int, ...] = (2, 4, 8)
    scale_weights: tuple[float, ...] = (0.1, 0.45, 0.45)
    degradation: str = "scanner"
    loss: ImageLoss = field(default_factory=ImageLoss)
    judged: int = 8
    loop: LoopConfig = field(default_factory=LoopConfig)


def main() -> None:
    """Run the training."""
    args, config = parse(__doc__ or "", "plain", PlainConfig)
    tiles = load_tiles(args.data / "train", args.limit)
    val = load_tiles(args.data / "val", args.limit)
    torch.manual_seed(config.loop.seed)
    network = channels_last(PlainNet(**config.model))
    rival = channels_last(PatchDiscriminator(channels=6))
    shown: dict[str, Tensor] = {}

    def step(module: nn.Module, iteration: int) -> Losses:
        device = next(module.parameters()).device
        rng = batch_rng(config.loop.seed, iteration, part())
        scale = draw_scale(config.loop.seed, iteration, config.scales, config.scale_weights)
        hr = random_crops(tiles, rng, config.batch, config.crop)
        lr = degrade(hr, scale, rng, config.degradation)
        resized = upsample(lr, scale).clamp(0, 1)
        resized = resized.to(device, memory_format=torch.channels_last)
        image, hr = module(resized), hr.to(device)
        with torch.autocast(device.type, enabled=False):
            image = agree(image.float(), lr)
        shown["real"], shown["fake"] = beside(hr, resized), beside(image.detach(), resized)
        losses = config.loss(image, hr, resized, rival, iteration)
        if iteration < config.loss.adversarial_from:
            return {**losses, "loss": losses["l1"]}
        return losses

    def rival_loss(module: nn.Module, iteration: int) -> Tensor:
        if iteration < config.loss.adversarial_from - 50:
            return torch.zeros(())
        return hinge_discriminator(module(shown["real"]), module(shown["fake"]))

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged = PlainNet(**config.model)
        averaged.load_state_dict(state)
        card = ModelCard("plain", {"restoration": "PlainNet"}, tuple(config.scales))
        save_pretrained(args.out / "model", card, {"restoration": averaged})
        model = from_pretrained(args.out / "model")
        return judge(model, val, [s for s in config.scales if s > 2], config.judged)

    train(
        config.loop,
        network,
        args.out,
        step,
        validate=validate,
        minutes=args.minutes,
        adversary=(rival, rival_loss),
    )


if __name__ == "__main__":
    main()
