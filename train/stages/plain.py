"""Trains the plain baseline: a residual network, first by L1, then with a patch adversary.

    python -m train plain --config train/configs/tiny.yaml --data tiles --out runs/plain

It has the data, degradations, losses and projection of the dual-stage model, and no diffusion:
what the diffusion model has to beat. `OUT/model` serves as `wsisr upscale --model`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, Text
from train.data import PairConfig, agree, pair_feed, upsample
from train.judge import example_images, judge_model
from train.loop import Losses, Run, construct, run_stage, train
from train.losses import AdversarialLoss, ImageLoss
from train.stages.stage1 import starting_weights
from wsisr.models import ModelCard, save_pretrained
from wsisr.models.files import fill
from wsisr.models.networks import PlainNet, channels_last


@dataclass(frozen=True, config=STRICT_KEYS)
class PlainConfig(PairConfig):
    """Section `plain` of a config.

    Attributes:
        model: arguments of `PlainNet`.
        loss: see `ImageLoss`; until `adversarial_from` it is L1 alone.
        judged: validation tiles that `train.judge` looks at.
        init: folder with weights to start from, as of a stage 1 of this class; empty to start
            anew.
    """

    model: dict[str, Any] = field(default_factory=dict)
    loss: ImageLoss = field(default_factory=ImageLoss)
    judged: Count = 8
    init: Text = ""


def fit(config: PlainConfig, run: Run) -> None:
    """Trains, or goes on training; each validation writes model/."""
    tiles, val = run.splits()
    torch.manual_seed(config.loop.seed)
    network = channels_last(construct(PlainNet, config.model, "plain.model"))
    if config.init:
        fill(network, starting_weights(Path(config.init)), config.init)
    averaged = copy.deepcopy(network)
    adversarial = AdversarialLoss(config.loss)
    feed = pair_feed(config, tiles, run.batch_workers)

    def step(module: nn.Module, iteration: int) -> Losses:
        device = next(module.parameters()).device
        lr, hr, scale = feed(iteration)
        lr, hr = (image.to(device, non_blocking=True) for image in (lr, hr))
        resized = upsample(lr, scale).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        image = module(resized)
        with torch.autocast(device.type, enabled=False):
            image = agree(image.float(), lr)
        losses = adversarial.losses(image, hr, resized, scale, iteration)
        if iteration < config.loss.adversarial_from:
            return {**losses, "loss": losses["l1"]}
        return losses

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged.load_state_dict(state)
        card = ModelCard("plain", {"restoration": "PlainNet"}, tuple(config.scales))
        half = copy.deepcopy(averaged).half()
        save_pretrained(run.out / "model", card, {"restoration": half})
        return judge_model(run.out / "model", val, config.scales, config.judged)

    train(
        config.loop,
        network,
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        adversary=(adversarial.discriminator, adversarial.discriminator_loss),
        pictures=lambda: example_images(run.out / "model", val, max(config.scales)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "plain", PlainConfig, fit, arguments)
