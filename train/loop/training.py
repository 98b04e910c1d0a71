"""The loop that all trainings share: schedule, averaged weights, logs, checkpoints, time slices.

Nothing random is stored: batches are functions of (seed, iteration, part), torch's own generators
are seeded from the same before each part, and the learning rate is a function of the iteration. So
a checkpoint is weights, optimizer state, averaged weights and a number, and a resumed run equals
the uninterrupted one.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from train.loop.ema import Ema
from train.loop.logs import Logs
from train.loop.schedule import LoopConfig
from train.loop.signals import catch_stop_signals
from train.loop.snapshots import keep_snapshot
from train.loop.state import DISCRIMINATOR, MODEL, Trained, resume, save
from train.loop.step import (
    Adversary,
    Losses,
    Step,
    check_finite,
    is_finite,
    on_any_process,
    optimise,
)

log = logging.getLogger("train")

LOOK_EVERY = 20
"""Iterations between two looks at the losses: a line of log.csv, and whether they are finite."""

Validate = Callable[[Mapping[str, Tensor], int], Mapping[str, float]]
Pictures = Callable[[], Mapping[str, Tensor]]


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Chooses where a training runs: on GPUs where there are any, else on CPUs.

    Of several processes without a GPU accelerate makes a group only when it is told that they are
    to run on CPUs; else each would train alone, into the same folder.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpus = several and not torch.cuda.is_available()
    # buffers here are constants; sending them at each step would cost time, and fails for SwinIR's
    # mean, which torch flattens to a view of itself in other strides
    constant = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(cpu=on_cpus, mixed_precision=config.precision, kwargs_handlers=[constant])


def train(
    config: LoopConfig,
    module: nn.Module,
    out: Path,
    step: Step,
    *,
    validate: Validate,
    minutes: float | None = None,
    adversary: Adversary | None = None,
    accelerator: Accelerator | None = None,
    pictures: Pictures | None = None,
) -> Mapping[str, Tensor]:
    """Trains a module from scratch, or from the checkpoint in `out`, until schedule or time end.

    Args:
        config: schedule and bookkeeping.
        module: what is trained; every parameter with requires_grad.
        out: folder of the checkpoint (see `train.loop.checkpoint`), log.csv, validation.csv,
            pictures/, snapshots/ and tensorboard/.
        step: (module, iteration) -> losses; their key `loss` is minimised, the rest is logged. It
            draws from `train.data.batch_rng`, once for each part of the global batch.
        validate: (averaged state dict, iteration) -> figures, written to validation.csv; it
            writes the weights for use into `out`. Runs on the main process.
        minutes: the run stops, with a checkpoint, after so long; None runs to the end.
        adversary: a discriminator and its loss as a function of (discriminator, iteration), run
            after each step of the module; it may return a constant while it is not yet wanted.
        accelerator: where it runs; by default that of `make_accelerator`.
        pictures: called after each validation -> images by name, (B, 3, H, W) in [0, 1] each,
            written side by side to pictures/ITERATION.png; no images write no file.

    Returns:
        The averaged state dict of the module.

    Raises:
        TrainingDivergedError: a loss is not finite; the last checkpoint stays.
        CheckpointError: a checkpoint cannot be written or read.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint.
    """
    accelerator = accelerator or make_accelerator(config)
    if accelerator.num_processes > 1:
        atexit.register(_leave_group, accelerator)
    out.mkdir(parents=True, exist_ok=True)
    networks = _with_optimizers(config, module, adversary)
    ema = Ema(module, config.ema)
    start = resume(out, networks, ema, accelerator)
    for network in networks.values():
        network.module, network.optimizer = accelerator.prepare(network.module, network.optimizer)
    bare = accelerator.unwrap_model(module)
    ema.follow(bare)
    logs = Logs(out, config.tensorboard and accelerator.is_main_process, start)
    if accelerator.is_main_process:
        logs.forget()
    run = _Training(config, out, accelerator, networks, ema, bare, logs, step, validate, pictures)
    bare.train()
    torch.backends.cudnn.benchmark = accelerator.device.type == "cuda"  # all batches of one shape
    with catch_stop_signals(accelerator) as received:
        run.iterate(start, adversary, minutes, received)
    logs.close()
    accelerator.wait_for_everyone()  # the main process may still be writing
    if received:
        raise KeyboardInterrupt
    return ema.shadow


def _with_optimizers(
    config: LoopConfig, module: nn.Module, adversary: Adversary | None
) -> dict[str, Trained]:
    """Gives each network its AdamW."""
    rate, decay = config.learning_rate, config.weight_decay
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.99))
    networks = {MODEL: Trained(module, optimizer)}
    if adversary is not None:
        own = torch.optim.AdamW(adversary[0].parameters(), lr=rate, betas=(0.5, 0.99))
        networks[DISCRIMINATOR] = Trained(adversary[0], own)
    return networks


def _leave_group(accelerator: Accelerator) -> None:
    """Ends the process group while Python still lives.

    A thread of gloo that lets go of a tensor while the interpreter shuts down aborts its process,
    and torchrun then ends the others, too, which may still be writing.
    """
    accelerator.free_memory()  # the wrapped modules hold the group
    accelerator.end_training()


@dataclass(frozen=True)
class _Due:
    """What is due after an iteration.

    Attributes:
        done: iterations that were done.
        stop: whether the time is over or a signal came.
        last: whether the schedule is at its end.
        look: whether the losses are looked at.
        save: whether a checkpoint is written.
        validate: whether the averaged weights are validated and exported.
        keep: whether the export is kept in snapshots/.
    """

    done: int
    stop: bool
    last: bool
    look: bool
    save: bool
    validate: bool
    keep: bool

    @classmethod
    def after(cls, config: LoopConfig, done: int, stop: bool) -> _Due:
        """Decides by the number of iterations that were done."""
        last = done == config.iterations
        keep = bool(config.keep_every) and done % config.keep_every == 0
        return cls(
            done,
            stop,
            last,
            look=done == 1 or done % LOOK_EVERY == 0,
            save=done % config.save_every == 0 or last or stop,
            validate=done % config.validate_every == 0 or last or keep,
            keep=keep,
        )


@dataclass(frozen=True)
class _Training:
    """A training that was set up: its networks, on their devices, and where it writes."""

    config: LoopConfig
    out: Path
    accelerator: Accelerator
    networks: Mapping[str, Trained]
    ema: Ema
    bare: nn.Module
    logs: Logs
    step: Step
    validate: Validate
    pictures: Pictures | None

    def iterate(
        self, start: int, adversary: Adversary | None, minutes: float | None, received: list[int]
    ) -> None:
        """Runs the iterations from `start` to the end, or until the time is over."""
        began = time.monotonic()
        finite = torch.ones((), device=self.accelerator.device)
        for iteration in range(start, self.config.iterations):
            losses = optimise(
                self.config, self.accelerator, self.networks, self.step, adversary, iteration
            )
            self.ema.update(iteration)
            seconds = time.monotonic() - began
            over = minutes is not None and seconds > 60 * minutes
            stop = on_any_process(self.accelerator, over or bool(received))
            due = _Due.after(self.config, iteration + 1, stop)
            # asking a GPU for a number makes it wait, so it is asked where the number is needed:
            # not at every iteration, but always before weights are written
            finite = finite * torch.isfinite(torch.stack([*losses.values()])).all()
            self._check(due, finite, losses)
            if self.accelerator.is_main_process:
                self._record(due, losses, seconds)
            if due.done % self.config.validate_every == 0:
                self.accelerator.wait_for_everyone()
            if stop:
                log.info("stopped at iteration %d of %d", due.done, self.config.iterations)
                break

    def _check(self, due: _Due, finite: Tensor, losses: Losses) -> None:
        """Checks that losses and weights are finite, where they are looked at or written."""
        if due.look or due.save or due.validate:
            check_finite(self.accelerator, finite, losses, due.done - 1)
        if due.save or due.validate:
            following = partial(self.step, self.bare, due.done)
            finite = is_finite(self.accelerator, self.networks, self.ema, following)
            check_finite(self.accelerator, finite, losses, due.done - 1)

    def _record(self, due: _Due, losses: Losses, seconds: float) -> None:
        """Writes what is due: logs, the validation's figures and pictures, the checkpoint."""
        if due.look or due.last:
            row = {key: round(float(value), 6) for key, value in losses.items()}
            self.logs.row("log", {"iteration": due.done, "seconds": round(seconds, 1)} | row)
        if due.validate:
            figures = dict(self.validate(self.ema.shadow, due.done))
            self.logs.row("validation", {"iteration": due.done} | figures)
            log.info("iteration %d: %s", due.done, figures)
            images = self.pictures() if self.pictures is not None else {}
            if images:
                self.logs.strip(due.done, images)
            self.bare.train()
        if due.keep:
            keep_snapshot(self.out, due.done)
        if due.save:
            save(self.out, due.done, self.networks, self.ema, self.accelerator)
