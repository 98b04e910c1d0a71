"""TODO-DOC"""

from __future__ import annotations

import math
from dataclasses import dataclass

from train.errors import require


@dataclass(frozen=True)
class LoopConfig:
    """What every stage needs to know.

    Attributes:
        iterations: length of the schedule, in steps of the optimizer.
        learning_rate: peak of AdamW's rate.
        warmup: iterations of linear rise.
        final_rate: the cosine ends at this fraction of the peak.
        ema: decay of the averaged weights that are saved for use.
        weight_decay: AdamW's.
        clip: largest gradient norm.
        accumulate: batches a process sums gradients over for one step.
        seed: of batches and noise.
        save_every, validate_every: iterations.
        keep_every: iterations between exports kept in `snapshots/`; 0 keeps none.
        precision: accelerate's mixed precision, `no`, `bf16` or `fp16`.
        tensorboard: write losses, figures and pictures for TensorBoard too (extra `train`).
    """

    iterations: int = 150_000
    learning_rate: float = 1e-4
    warmup: int = 0
    final_rate: float = 1.0
    ema: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    seed: int = 0
    save_every: int = 500
    validate_every: int = 1000
    keep_every: int = 0
    precision: str = "no"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("iterations", "accumulate", "save_every", "validate_every"):
            value = getattr(self, name)
            require(value >= 1, f"loop.{name} {value}: must be 1 or more")
        for name in ("warmup", "final_rate", "weight_decay", "seed", "keep_every"):
            value = getattr(self, name)
            require(value >= 0, f"loop.{name} {value}: must be 0 or more")
        rate = self.learning_rate
        require(0 <= rate <= 1, f"loop.learning_rate {rate:g}: must be from 0 to 1")
        require(0 <= self.ema < 1, f"loop.ema {self.ema:g}: must be from 0 to below 1")
        require(self.clip > 0, f"loop.clip {self.clip:g}: must be above 0")
        known = ("no", "bf16", "fp16")
        precision = self.mixed_precision
        require(precision in known, f"loop.precision {precision}: must be {' or '.join(known)}")

    @property
    def mixed_precision(self) -> str:
        """For accelerate; YAML reads a bare `no` as false."""
        return self.precision or "no"


def learning_rate(config: LoopConfig, iteration: int) -> float:
    """Linear warm-up, then a cosine from the peak to `final_rate` times the peak."""
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    span = max(1, config.iterations - config.warmup)
    progress = min(1.0, (iteration - config.warmup) / span)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)
