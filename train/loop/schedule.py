"""The settings that every training shares, and the learning rate that follows from them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from train.config import STRICT_KEYS, Count, CountOrZero, Flag, NoMeansOff, Number, Weight


@dataclass(frozen=True, config=STRICT_KEYS)
class LoopConfig:
    """Section `loop` of a stage's section.

    Attributes:
        iterations: length of the schedule, in steps of the optimizer.
        learning_rate: peak of AdamW's learning rate.
        warmup: iterations of linear rise at the start.
        final_rate: fraction of the peak at which the cosine ends.
        ema: decay of the averaged weights, which are the ones that are exported.
        weight_decay: weight decay of AdamW.
        clip: largest norm of the gradient.
        accumulate: batches that a process sums gradients over for one step.
        seed: seed of batches and noise.
        save_every: iterations between two checkpoints.
        validate_every: iterations between two validations.
        keep_every: iterations between two exports that are kept in `snapshots/`; 0 keeps none.
        precision: accelerate's mixed precision; `no` computes in single precision.
        tensorboard: whether losses, figures and pictures are written for TensorBoard too, which
            needs the extra `train`.
    """

    iterations: Count = 150_000
    learning_rate: Annotated[Number, Field(ge=0, le=1)] = 1e-4
    warmup: CountOrZero = 0
    final_rate: Weight = 1.0
    ema: Annotated[Number, Field(ge=0, lt=1)] = 0.999
    weight_decay: Weight = 0.01
    clip: Annotated[Number, Field(gt=0)] = 1.0
    accumulate: Count = 1
    seed: CountOrZero = 0
    save_every: Count = 500
    validate_every: Count = 1000
    keep_every: CountOrZero = 0
    precision: Annotated[Literal["no", "bf16", "fp16"], NoMeansOff] = "no"
    tensorboard: Flag = False


def learning_rate(config: LoopConfig, iteration: int) -> float:
    """Gives the learning rate of an iteration.

    It rises linearly over the warm-up and then falls along a cosine, from the peak to
    `final_rate` times the peak.
    """
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    span = max(1, config.iterations - config.warmup)
    progress = min(1.0, (iteration - config.warmup) / span)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)
