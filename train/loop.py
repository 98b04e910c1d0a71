"""The loop all trainings share: accelerate, schedule, EMA, log, checkpoint, resume, time slice.

Nothing random is stored: batches are functions of (seed, iteration, rank) and the learning rate
is one of the iteration, so a checkpoint is weights, optimizer state, EMA and a number.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

log = logging.getLogger("train")

Losses = Mapping[str, Tensor]


class TrainingDivergedError(RuntimeError):
    """The loss is no longer finite; the last good checkpoint stays."""


@dataclass(frozen=True)
class LoopConfig:
    """What every stage needs to know.

    Attributes:
        iterations: length of the schedule.
        learning_rate: peak of AdamW's rate.
        warmup: iterations of linear rise.
        final_rate: the cosine ends at this fraction of the peak.
        ema: decay of the averaged weights that are saved for use.
        weight_decay: AdamW's.
        clip: largest gradient norm.
        seed: of batches and noise.
        save_every, validate_every: iterations.
        precision: accelerate's mixed precision, `no`, `bf16` or `fp16`.
    """

    iterations: int = 150_000
    learning_rate: float = 1e-4
    warmup: int = 0
    final_rate: float = 1.0
    ema: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    save_every: int = 500
    validate_every: int = 1000
    precision: str = "no"


def learning_rate(config: LoopConfig, iteration: int) -> float:
    """Linear warm-up, then a cosine from the peak to `final_rate` times the peak."""
    if iteration < config.warmup:
        return config.learning_rate * (iteration + 1) / config.warmup
    span = max(1, config.iterations - config.warmup)
    progress = min(1.0, (iteration - config.warmup) / span)
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * fall)


def save_atomic(state: object, path: Path) -> None:
    """`torch.save` beside the target, then rename: a full disk leaves the old file valid."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Ema:
    """Exponential moving average of a module's parameters, with a warm-up of its decay."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    def update(self, module: nn.Module, iteration: int) -> None:
        """Move the average towards the module's present weights."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    self.shadow[key].lerp_(value, 1 - decay)
                else:
                    self.shadow[key].copy_(value)


def train(
    config: LoopConfig,
    module: nn.Module,
    out: Path,
    step: Callable[[nn.Module, int], Losses],
    *,
    validate: Callable[[Mapping[str, Tensor], int], Mapping[str, float]],
    minutes: float | None = None,
    adversary: tuple[nn.Module, Callable[[nn.Module, int], Tensor]] | None = None,
    accelerator: Accelerator | None = None,
) -> Mapping[str, Tensor]:
    """Train `module` from scratch or from `out/state.pt` until the schedule or the time ends.

    Args:
        config: schedule and bookkeeping.
        module: what is trained; every parameter with requires_grad.
        out: folder of state.pt, log.csv and validation.csv.
        step: (module, iteration) -> losses; their key `loss` is minimised, the rest is logged.
        validate: (averaged state dict, iteration) -> figures, written to validation.csv.
        minutes: stop (with a checkpoint) after so long.
        adversary: a discriminator and its loss as a function of (discriminator, iteration), run
            after each step of the module; it may return a constant while it is not yet wanted.
        accelerator: where it runs; by default one made from `config.precision`.

    Returns:
        The averaged state dict of the module.

    Raises:
        TrainingDivergedError: a loss is not finite; nothing is saved.
    """
    accelerator = accelerator or Accelerator(mixed_precision=config.precision)
    out.mkdir(parents=True, exist_ok=True)
    rate, decay = config.learning_rate, config.weight_decay
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=decay, betas=(0.9, 0.99))
    start, state_file = 0, out / "state.pt"
    state = None
    ema = Ema(module, config.ema)
    rival = rival_optimizer = None
    if adversary is not None:
        rival = adversary[0]
        rival_optimizer = torch.optim.AdamW(rival.parameters(), lr=rate, betas=(0.5, 0.99))
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        start = state["iteration"]
        module.load_state_dict(state["module"])
        ema.shadow = state["ema"]
        optimizer.load_state_dict(state["optimizer"])
        if rival is not None and rival_optimizer is not None:
            rival.load_state_dict(state["rival"])
            rival_optimizer.load_state_dict(state["rival_optimizer"])
        log.info("resumed at iteration %d", start)
    module, optimizer = accelerator.prepare(module, optimizer)
    if rival is not None:
        rival, rival_optimizer = accelerator.prepare(rival, rival_optimizer)
    ema.shadow = {k: v.to(accelerator.device) for k, v in ema.shadow.items()}

    def save(iteration: int) -> None:
        if not accelerator.is_main_process:
            return
        state = {
            "iteration": iteration,
            "module": accelerator.unwrap_model(module).state_dict(),
            "ema": ema.shadow,
            "optimizer": optimizer.state_dict(),
        }
        if rival is not None and rival_optimizer is not None:
            state["rival"] = accelerator.unwrap_model(rival).state_dict()
            state["rival_optimizer"] = rival_optimizer.state_dict()
        save_atomic(state, state_file)

    began = time.monotonic()
    module.train()
    for iteration in range(start, config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, iteration)
        with accelerator.autocast():
            losses = step(module, iteration)
        if not all(torch.isfinite(v) for v in losses.values()):
            raise TrainingDivergedError(f"iteration {iteration}: {_plain(losses)}")
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(losses["loss"])
        accelerator.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        ema.update(accelerator.unwrap_model(module), iteration)
        if adversary is not None and rival is not None and rival_optimizer is not None:
            with accelerator.autocast():
                rival_loss = adversary[1](rival, iteration)
            if rival_loss.requires_grad:
                rival_optimizer.zero_grad(set_to_none=True)
                accelerator.backward(rival_loss)
                rival_optimizer.step()
        done = iteration + 1
        last = done == config.iterations
        out_of_time = minutes is not None and time.monotonic() - began > 60 * minutes
        if accelerator.is_main_process and (done % 20 == 0 or last):
            row = {"iteration": done, "seconds": round(time.monotonic() - began, 1)}
            _append(out / "log.csv", row | _plain(losses))
        if done % config.validate_every == 0 or last:
            figures = validate(ema.shadow, done)
            if accelerator.is_main_process:
                _append(out / "validation.csv", {"iteration": done} | dict(figures))
                log.info("iteration %d: %s", done, figures)
        if done % config.save_every == 0 or last or out_of_time:
            save(done)
        if out_of_time:
            log.info("time slice over at iteration %d of %d", done, config.iterations)
            break
    return ema.shadow


def _plain(losses: Losses) -> dict[str, float]:
    return {k: round(float(v.detach()), 6) for k, v in losses.items()}


def _append(file: Path, row: Mapping[str, float]) -> None:
    new = not file.exists()
    with file.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, row.keys())
        if new:
            writer.writeheader()
        writer.writerow(row)
