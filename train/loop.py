"""The loop all trainings share: accelerate, schedule, EMA, log, checkpoint, resume, time slice.

Nothing random is stored: batches are functions of (seed, iteration, part), torch's own generators
are seeded from the same before each part, and the learning rate is a function of the iteration. So
a checkpoint is weights, optimizer state, EMA and a number, and a resumed run equals the
uninterrupted one.
"""

from __future__ import annotations

import atexit
import csv
import io
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from train.checkpoint import load_checkpoint, save_checkpoint
from train.data import set_part
from train.errors import CheckpointError, TrainingDivergedError, require
from train.pictures import save_strip
from train.shards import write_atomic

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


class Ema:
    """Exponential moving average of a module's weights, with a warm-up of its decay.

    Frozen parameters do not move: their average is they themselves, without a copy.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        frozen = frozen_keys(module)
        self.shadow = {
            key: value.detach() if key in frozen else value.detach().clone()
            for key, value in module.state_dict().items()
        }
        self._moving = [key for key in self.shadow if key not in frozen]
        self._state: dict[str, Tensor] = {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over a saved average."""
        for key in self._moving:
            self.shadow[key].copy_(state[key])

    def follow(self, module: nn.Module) -> None:
        """Move to where the module is, whose weights `update` looks at from now on.

        They change in place only, so they are looked up once: the loop that launches a GPU's
        kernels has no time to walk through a module.
        """
        self._state = module.state_dict()
        for key, value in self._state.items():
            moving = self.shadow[key].to(value.device) if key in self._moving else value
            self.shadow[key] = moving

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Move the average towards the present weights."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        pairs = [(self.shadow[key], self._state[key]) for key in self._moving]
        real = [pair for pair in pairs if pair[1].is_floating_point()]
        if real:
            shadows, values = zip(*real, strict=True)
            torch._foreach_lerp_(list(shadows), list(values), 1 - decay)
        for shadow, value in pairs:
            if not value.is_floating_point():
                shadow.copy_(value)


def frozen_keys(module: nn.Module) -> set[str]:
    """Names of the parameters that are not trained."""
    return {name for name, value in module.named_parameters() if not value.requires_grad}


@dataclass
class _Trained:
    """A network with its optimizer."""

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def state(self, accelerator: Accelerator, name: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and JSON; frozen parameters are left out, since they come from elsewhere."""
        module = accelerator.unwrap_model(self.module)
        frozen = frozen_keys(module)
        tensors = {
            f"{name}/module/{key}": value
            for key, value in module.state_dict().items()
            if key not in frozen
        }
        optimizer = self.optimizer.state_dict()
        for number, moments in optimizer["state"].items():
            for key, value in moments.items():
                tensors[f"{name}/optimizer/{number}/{key}"] = torch.as_tensor(value)
        return tensors, optimizer["param_groups"]

    def load(self, name: str, tensors: Mapping[str, Tensor], groups: Any) -> None:
        """The inverse of `state`, before `accelerator.prepare`."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, f"{name}/optimizer/").items():
            number, moment = key.split("/")
            moments.setdefault(int(number), {})[moment] = value
        # weights first: they tell another network from this one
        load_weights(self.module, _below(tensors, f"{name}/module/"))
        try:
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        except ValueError as error:
            raise CheckpointError(
                "the checkpoint is of another network (not so many parameters are trained); use "
                "its config or another --out"
            ) from error


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Weights of a checkpoint, which may leave out the frozen ones.

    Raises:
        CheckpointError: they are those of another network.
    """
    try:
        missing = set(module.load_state_dict(state, strict=False).missing_keys)
    except RuntimeError as error:
        raise CheckpointError(
            f"the checkpoint is of another network ({str(error).splitlines()[-1].strip()}); "
            "use its config or another --out"
        ) from error
    extra = set(state) - set(module.state_dict())
    if extra or missing - frozen_keys(module):
        first = min(extra | (missing - frozen_keys(module)))
        raise CheckpointError(
            f"the checkpoint is of another network ({first}); use its config or another --out"
        )


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
        out: folder of the checkpoint (see `train.checkpoint`; a `state.pt` of earlier versions is
            read too), log.csv, validation.csv, pictures/, snapshots/, tensorboard/.
        step: (module, iteration) -> losses; their key `loss` is minimised, the rest is logged. It
            draws from `train.data.batch_rng`, once for each part of the global batch.
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


def _save(
    out: Path, done: int, parts: Mapping[str, _Trained], ema: Ema, accelerator: Accelerator
) -> None:
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {"groups": {}}
    for name, part in parts.items():
        own, meta["groups"][name] = part.state(accelerator, name)
        tensors |= own
    frozen = frozen_keys(accelerator.unwrap_model(parts["main"].module))
    tensors |= {f"ema/{k}": v for k, v in ema.shadow.items() if k not in frozen}
    if accelerator.scaler is not None:
        meta["scaler"] = accelerator.scaler.state_dict()
    save_checkpoint(out, done, tensors, meta)
    (out / "state.pt").unlink(missing_ok=True)


def _resume(out: Path, parts: Mapping[str, _Trained], ema: Ema, accelerator: Accelerator) -> int:
    """Load the checkpoint, if there is one, into everything; returns its iteration."""
    found = load_checkpoint(out)
    if found is None:
        return _resume_single_file(out / "state.pt", parts, ema)
    iteration, tensors, meta = found
    if set(meta["groups"]) != set(parts):
        raise CheckpointError(f"{out}: the checkpoint is of another training; use another --out")
    for name, part in parts.items():
        part.load(name, tensors, meta["groups"][name])
    ema.load(_below(tensors, "ema/"))
    if accelerator.scaler is not None and "scaler" in meta:
        accelerator.scaler.load_state_dict(meta["scaler"])
    log.info("resumed at iteration %d", iteration)
    return iteration


def _resume_single_file(file: Path, parts: Mapping[str, _Trained], ema: Ema) -> int:
    """A checkpoint of earlier versions."""
    if not file.exists():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True)
    parts["main"].optimizer.load_state_dict(state["optimizer"])
    load_weights(parts["main"].module, state["module"])
    ema.load(state["ema"])
    if "rival" in parts:
        parts["rival"].optimizer.load_state_dict(state["rival_optimizer"])
        load_weights(parts["rival"].module, state["rival"])
    log.info("resumed %s at iteration %d", file.name, state["iteration"])
    return int(state["iteration"])


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


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


class _Logs:
    """CSV files, pictures and, where wanted, TensorBoard's; `start` is the iteration resumed at."""

    def __init__(self, out: Path, tensorboard: bool, start: int = 0) -> None:
        self.out, self.start = out, start
        self.board: Any = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise CheckpointError(
                    "loop.tensorboard needs TensorBoard; pip install 'wsisr[train]', or set it off"
                ) from error
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def forget(self) -> None:
        """Drop the lines of iterations that a killed run had done after its checkpoint."""
        for name in ("log", "validation"):
            file = self.out / f"{name}.csv"
            if not file.exists():
                continue
            lines = file.read_text().splitlines(keepends=True)
            kept = [*lines[:1], *(line for line in lines[1:] if self._is_kept(line))]
            if len(kept) < len(lines):
                write_atomic(file, "".join(kept).encode())

    def _is_kept(self, line: str) -> bool:
        # iteration is the first column; a torn last line goes, too
        number = line.partition(",")[0]
        return number.isdigit() and line.endswith("\n") and int(number) <= self.start

    def row(self, name: str, row: Mapping[str, float]) -> None:
        """One line of a CSV file."""
        file = self.out / f"{name}.csv"
        old: list[dict[str, str]] = []
        columns: list[str] = []
        if file.exists():
            with file.open(newline="") as handle:
                reader = csv.DictReader(handle)
                columns = list(reader.fieldnames or ())
                if not row.keys() <= set(columns):
                    old = list(reader)
        new = [key for key in row if key not in columns]
        if new:  # at first, and where the machine a run has moved to measures more
            text = io.StringIO()
            writer = csv.DictWriter(text, columns + new, lineterminator="\n")
            writer.writeheader()
            writer.writerows(old)
            write_atomic(file, text.getvalue().encode())
        with file.open("a", newline="") as handle:
            csv.DictWriter(handle, columns + new, lineterminator="\n").writerow(row)
        if self.board is not None:
            for key in row.keys() - {"iteration"}:
                self.board.add_scalar(f"{name}/{key}", row[key], row["iteration"])

    def strip(self, iteration: int, images: Mapping[str, Tensor]) -> None:
        """One picture."""
        file = self.out / "pictures" / f"{iteration:07d}.png"
        pixels = save_strip(file, images)
        if self.board is not None:
            self.board.add_image("validation", pixels, iteration, dataformats="HWC")

    def close(self) -> None:
        """Flush."""
        if self.board is not None:
            self.board.close()
