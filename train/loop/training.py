"""The loop all trainings share: accelerate, schedule, EMA, log, checkpoint, resume, time slice.

Nothing random is stored: batches are functions of (seed, iteration, part), torch's own generators
are seeded from the same before each part, and the learning rate is a function of the iteration. So
a checkpoint is weights, optimizer state, EMA and a number, and a resumed run equals the
uninterrupted one.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from train.data import set_part
from train.errors import TrainingDivergedError
from train.loop.config import LoopConfig, learning_rate
from train.loop.ema import Ema
from train.loop.logs import _Logs
from train.loop.state import _resume, _save, _Trained

log = logging.getLogger("train")

LOOK_EVERY = 20
"""Iterations between two looks at the losses: a line of log.csv, and whether they are finite."""

Losses = Mapping[str, Tensor]
Adversary = tuple[nn.Module, Callable[[nn.Module, int], Tensor]]
__all__ = [
    "LoopConfig",
    "Losses",
    "TrainingDivergedError",
    "learning_rate",
    "make_accelerator",
    "train",
]


def make_accelerator(config: LoopConfig) -> Accelerator:
    """Where a training runs: on GPUs where there are any, else on CPUs, in all of its processes.

    Of several processes without a GPU accelerate makes a group only when it is told that they are
    to run on CPUs; else each would train alone, into the same folder.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    on_cpus = several and not torch.cuda.is_available()
    # buffers here are constants; sending them at each step would cost time, and fails for SwinIR's
    # mean, which torch flattens to a view of itself in other strides
    constant = DistributedDataParallelKwargs(broadcast_buffers=False)
    return Accelerator(
        cpu=on_cpus, mixed_precision=config.mixed_precision, kwargs_handlers=[constant]
    )


def train(
    config: LoopConfig,
    module: nn.Module,
    out: Path,
    step: Callable[[nn.Module, int], Losses],
    *,
    validate: Callable[[Mapping[str, Tensor], int], Mapping[str, float]],
    minutes: float | None = None,
    adversary: Adversary | None = None,
    accelerator: Accelerator | None = None,
    pictures: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Mapping[str, Tensor]:
    """Train `module` from scratch or from the checkpoint in `out` until schedule or time end.

    Args:
        config: schedule and bookkeeping.
        module: what is trained; every parameter with requires_grad.
        out: folder of the checkpoint (see `train.loop.checkpoint`; a `state.pt` of earlier versions is
            read too), log.csv, validation.csv, pictures/, snapshots/, tensorboard/.
        step: (module, iteration) -> losses; their key `loss` is minimised, the rest is logged. It
            draws from `train.data.tiles.batch_rng`, once for each part of the global batch.
        validate: (averaged state dict, iteration) -> figures, written to validation.csv; it
            writes the weights for use into `out`. Runs on the main process.
        minutes: stop (with a checkpoint) after so long.
        adversary: a discriminator and its loss as a function of (discriminator, iteration), run
            after each step of the module; it may return a constant while it is not yet wanted.
        accelerator: where it runs; by default `make_accelerator`'s.
        pictures: called after each validation -> images by name, (B, 3, H, W) in [0, 1] each,
            written side by side to pictures/ITERATION.png; none writes none.

    Returns:
        The averaged state dict of the module.

    Raises:
        TrainingDivergedError: a loss is not finite; the last checkpoint stays.
        CheckpointError: a checkpoint cannot be written or read.
        KeyboardInterrupt: after Ctrl-C, with a checkpoint.
    """
    accelerator = accelerator or make_accelerator(config)
    if accelerator.num_processes > 1:
        atexit.register(_leave, accelerator)
    out.mkdir(parents=True, exist_ok=True)
    rate, decay = config.learning_rate, config.weight_decay
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=(0.9, 0.99))
    parts = {"main": _Trained(module, optimizer)}
    if adversary is not None:
        rival = torch.optim.AdamW(adversary[0].parameters(), lr=rate, betas=(0.5, 0.99))
        parts["rival"] = _Trained(adversary[0], rival)
    ema = Ema(module, config.ema)
    start = _resume(out, parts, ema, accelerator)
    for part in parts.values():
        part.module, part.optimizer = accelerator.prepare(part.module, part.optimizer)
    bare = accelerator.unwrap_model(module)
    ema.follow(bare)
    logs = _Logs(out, config.tensorboard and accelerator.is_main_process, start)
    if accelerator.is_main_process:
        logs.forget()
    began = time.monotonic()
    bare.train()
    torch.backends.cudnn.benchmark = accelerator.device.type == "cuda"  # all batches of one shape
    finite = torch.ones((), device=accelerator.device)
    with _told_to_stop(accelerator) as told:
        for iteration in range(start, config.iterations):
            losses = _optimise(config, accelerator, parts, step, adversary, iteration)
            ema.update(iteration)
            done = iteration + 1
            last = done == config.iterations
            seconds = time.monotonic() - began
            over = minutes is not None and seconds > 60 * minutes
            out_of_time = _any(accelerator, over or bool(told))
            keep = bool(config.keep_every) and done % config.keep_every == 0
            save = done % config.save_every == 0 or last or out_of_time
            # asking a GPU for a number makes it wait, so it is asked where the number is needed:
            # not at every iteration, but always before weights are written
            finite = finite * torch.isfinite(torch.stack([*losses.values()])).all()
            look = done == 1 or done % LOOK_EVERY == 0
            validating = done % config.validate_every == 0 or last or keep
            if look or save or validating:
                _check(accelerator, finite, losses, iteration)
            if save or validating:
                sound = _goes_on(accelerator, parts, ema, partial(step, bare, iteration + 1))
                _check(accelerator, sound, losses, iteration)
            if accelerator.is_main_process:
                if look or last:
                    row = {key: round(float(value), 6) for key, value in losses.items()}
                    logs.row("log", {"iteration": done, "seconds": round(seconds, 1)} | row)
                if validating:
                    figures = dict(validate(ema.shadow, done))
                    logs.row("validation", {"iteration": done} | figures)
                    log.info("iteration %d: %s", done, figures)
                    images = pictures() if pictures is not None else {}
                    if images:
                        logs.strip(done, images)
                    bare.train()
                if keep:
                    _keep(out, done)
                if save:
                    _save(out, done, parts, ema, accelerator)
            if done % config.validate_every == 0:
                accelerator.wait_for_everyone()
            if out_of_time:
                log.info("stopped at iteration %d of %d", done, config.iterations)
                break
    logs.close()
    accelerator.wait_for_everyone()  # the main process may still be writing
    if told:
        raise KeyboardInterrupt
    return ema.shadow


@contextmanager
def _told_to_stop(accelerator: Accelerator) -> Iterator[list[int]]:
    """A list that gets Ctrl-C (and SIGTERM), so that an iteration ends and is saved.

    The second one ends the process at once. Of several processes torchrun ends those that are left
    by SIGTERM when one has failed, and they cannot go on.
    """
    told: list[int] = []

    def note(number: int, frame: object) -> None:
        if told:
            raise KeyboardInterrupt
        told.append(number)

    signals = [signal.SIGINT] if accelerator.num_processes > 1 else [signal.SIGINT, signal.SIGTERM]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    # a shell lets what it runs in the background ignore Ctrl-C
    heard = [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(accelerator: Accelerator) -> None:
    """End the process group while Python still lives.

    A thread of gloo that lets go of a tensor while the interpreter shuts down aborts its process,
    and torchrun then ends the others, too, which may still be writing.
    """
    accelerator.free_memory()  # the wrapped modules hold the group
    accelerator.end_training()


def _optimise(
    config: LoopConfig,
    accelerator: Accelerator,
    parts: Mapping[str, _Trained],
    step: Callable[[nn.Module, int], Losses],
    adversary: Adversary | None,
    iteration: int,
) -> dict[str, Tensor]:
    """One step of the optimizers; returns the mean losses of this process, on its device."""
    main, rival = parts["main"], parts.get("rival")
    for part in parts.values():
        part.optimizer.zero_grad(set_to_none=True)
    for group in main.optimizer.param_groups:
        group["lr"] = learning_rate(config, iteration)
    sums: dict[str, Tensor] = {}
    rivalled = False
    for micro in range(config.accumulate):
        position = accelerator.process_index * config.accumulate + micro
        set_part(position)
        torch.manual_seed(_torch_seed(config.seed, iteration, position))
        summing = micro < config.accumulate - 1
        if rival is not None:
            # the module's own loss goes through the rival, whose gradients it must leave alone
            rival.module.requires_grad_(False)
        with accelerator.no_sync(main.module) if summing else nullcontext():
            with accelerator.autocast():
                losses = step(main.module, iteration)
            accelerator.backward(losses["loss"] / config.accumulate)
        for key, value in losses.items():
            mean = value.detach().float() / config.accumulate
            sums[key] = sums[key] + mean if key in sums else mean
        if rival is not None and adversary is not None:
            rival.module.requires_grad_(True)
            with accelerator.no_sync(rival.module) if summing else nullcontext():
                with accelerator.autocast():
                    loss = adversary[1](rival.module, iteration)
                if loss.requires_grad:
                    accelerator.backward(loss / config.accumulate)
                    rivalled = True
    norm = accelerator.clip_grad_norm_(
        [p for p in main.module.parameters() if p.requires_grad], config.clip
    )
    if accelerator.scaler is None and norm is not None:  # a scaler steps over such gradients
        sums["gradient"] = torch.as_tensor(norm).detach().float()
    main.optimizer.step()
    if rival is not None and rivalled:
        rival.optimizer.step()
    set_part(accelerator.process_index * config.accumulate)
    return sums


def _torch_seed(seed: int, iteration: int, position: int) -> int:
    """A seed for torch's own generators (dropout and the like) in one part of an iteration."""
    words = np.random.SeedSequence((seed, iteration, position)).generate_state(1, np.uint64)
    return int(words[0] >> 1)


def _goes_on(
    accelerator: Accelerator,
    parts: Mapping[str, _Trained],
    ema: Ema,
    next_losses: Callable[[], Losses],
) -> Tensor:
    """Whether what is about to be written is finite, and gives finite losses: 1, else 0.

    A loss is of the weights before its step. One step too far may leave weights that are finite
    and of no use, and they must not replace the last good checkpoint.
    """
    rivals = [part.module.eval() for name, part in parts.items() if name != "main"]
    with torch.no_grad(), accelerator.autocast():
        losses = next_losses()
    for rival in rivals:  # its spectral norms follow each training pass, and this is none
        rival.train()
    states = [*(part.module.state_dict() for part in parts.values()), ema.shadow]
    weights = [value for state in states for value in state.values()]
    values = [*losses.values(), *(w for w in weights if w.is_floating_point())]
    sound = [torch.isfinite(value).all().to(accelerator.device) for value in values]
    return torch.stack(sound).all().float()


def _check(accelerator: Accelerator, finite: Tensor, losses: Losses, iteration: int) -> None:
    """Raise TrainingDivergedError where `finite`, of all iterations up to here, is zero."""
    if _any(accelerator, not bool(finite)):
        values = ", ".join(f"{key} {float(value):g}" for key, value in losses.items())
        raise TrainingDivergedError(
            f"iteration {iteration}: the loss, its gradient or the weights are not finite, now or "
            f"shortly before ({values}); the last checkpoint is kept; lower loop.learning_rate or "
            "loop.clip, or check the data"
        )


def _any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether any process says so: all go on or none does."""
    if accelerator.num_processes == 1:
        return flag
    said = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(said, "sum").item() > 0)


def _keep(out: Path, done: int) -> None:
    """Copy what the validation exported, so that models of several iterations can be compared."""
    place = out / "snapshots" / f"{done:07d}"
    for source in _exports(out):
        place.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place / source.name, dirs_exist_ok=True)
        else:
            shutil.copy2(source, place)


def _exports(out: Path) -> Iterable[Path]:
    # parts of a model, and whole models
    for card in ("config.json", "model.json"):
        yield from (f.parent for f in out.glob(f"*/{card}"))
    yield from out.glob("*.safetensors")
