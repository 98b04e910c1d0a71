"""One iteration: the parts of the global batch, the optimizers, and whether all is finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train.data import set_batch_part
from train.errors import TrainingDivergedError
from train.loop.ema import Ema
from train.loop.schedule import LoopConfig, learning_rate
from train.loop.state import DISCRIMINATOR, MODEL, Trained

Losses = Mapping[str, Tensor]
"""Scalars by name; `loss` is minimised, the rest is logged."""
Step = Callable[[nn.Module, int], Losses]
"""(module, iteration) -> losses."""
Adversary = tuple[nn.Module, Callable[[nn.Module, int], Tensor]]
"""A discriminator, and its loss as a function of (discriminator, iteration)."""


def optimise(
    config: LoopConfig,
    accelerator: Accelerator,
    networks: Mapping[str, Trained],
    step: Step,
    adversary: Adversary | None,
    iteration: int,
) -> dict[str, Tensor]:
    """Takes one step of the optimizers.

    Args:
        config: schedule and accumulation.
        accelerator: where it runs.
        networks: the prepared module and, with an adversary, its discriminator.
        step: gives the module's losses.
        adversary: gives the discriminator's loss.
        iteration: counted from 0.

    Returns:
        The mean losses of this process, on its device, and the norm of the `gradient`.
    """
    main, discriminator = networks[MODEL], networks.get(DISCRIMINATOR)
    for network in networks.values():
        network.optimizer.zero_grad(set_to_none=True)
    for group in main.optimizer.param_groups:
        group["lr"] = learning_rate(config, iteration)
    sums: dict[str, Tensor] = {}
    learns = False
    for number in range(config.accumulate):
        part = accelerator.process_index * config.accumulate + number
        set_batch_part(part)
        torch.manual_seed(_torch_seed(config.seed, iteration, part))
        summing = number < config.accumulate - 1
        if discriminator is not None:
            # the module's own loss goes through it, and must leave its gradients alone
            discriminator.module.requires_grad_(False)
        with accelerator.no_sync(main.module) if summing else nullcontext():
            with accelerator.autocast():
                losses = step(main.module, iteration)
            accelerator.backward(losses["loss"] / config.accumulate)
        for key, value in losses.items():
            mean = value.detach().float() / config.accumulate
            sums[key] = sums[key] + mean if key in sums else mean
        if discriminator is not None and adversary is not None:
            learns |= _learn_to_tell(
                config, accelerator, discriminator.module, adversary, iteration, summing
            )
    norm = accelerator.clip_grad_norm_(
        [p for p in main.module.parameters() if p.requires_grad], config.clip
    )
    if accelerator.scaler is None and norm is not None:  # a scaler steps over such gradients
        sums["gradient"] = torch.as_tensor(norm).detach().float()
    main.optimizer.step()
    if discriminator is not None and learns:
        discriminator.optimizer.step()
    set_batch_part(accelerator.process_index * config.accumulate)
    return sums


def _learn_to_tell(
    config: LoopConfig,
    accelerator: Accelerator,
    discriminator: nn.Module,
    adversary: Adversary,
    iteration: int,
    summing: bool,
) -> bool:
    """Adds the discriminator's gradients of one batch; tells whether its loss has any."""
    discriminator.requires_grad_(True)
    with accelerator.no_sync(discriminator) if summing else nullcontext():
        with accelerator.autocast():
            loss = adversary[1](discriminator, iteration)
        if loss.requires_grad:
            accelerator.backward(loss / config.accumulate)
    return loss.requires_grad


def _torch_seed(seed: int, iteration: int, part: int) -> int:
    """Gives a seed for torch's own generators (dropout and the like) in one part of a batch."""
    words = np.random.SeedSequence((seed, iteration, part)).generate_state(1, np.uint64)
    return int(words[0] >> 1)


def is_finite(
    accelerator: Accelerator,
    networks: Mapping[str, Trained],
    ema: Ema,
    next_losses: Callable[[], Losses],
) -> Tensor:
    """Tells whether what is about to be written is finite and gives finite losses.

    A loss is of the weights before its step. One step too far may leave weights that are finite
    and of no use, and they must not replace the last good checkpoint.

    Args:
        accelerator: where it runs.
        networks: everything that is trained.
        ema: the averaged weights.
        next_losses: gives the losses of the next iteration.

    Returns:
        A scalar, 1.0 or 0.0.
    """
    others = [network.module.eval() for name, network in networks.items() if name != MODEL]
    with torch.no_grad(), accelerator.autocast():
        losses = next_losses()
    for other in others:  # its spectral norms follow each training pass, and this is none
        other.train()
    states = [*(network.module.state_dict() for network in networks.values()), ema.shadow]
    weights = [value for state in states for value in state.values()]
    values = [*losses.values(), *(w for w in weights if w.is_floating_point())]
    finite = [torch.isfinite(value).all().to(accelerator.device) for value in values]
    return torch.stack(finite).all().float()


def check_finite(accelerator: Accelerator, finite: Tensor, losses: Losses, iteration: int) -> None:
    """Ends the training unless all iterations so far were finite, on all processes.

    Args:
        accelerator: where it runs.
        finite: a scalar, zero where something was not finite.
        losses: the latest, for the message.
        iteration: the present one, for the message.

    Raises:
        TrainingDivergedError: `finite` is zero on any process.
    """
    if on_any_process(accelerator, not bool(finite)):
        values = ", ".join(f"{key} {float(value):g}" for key, value in losses.items())
        raise TrainingDivergedError(
            f"iteration {iteration}: the loss, its gradient or the weights are not finite, now or "
            f"shortly before ({values}); the last checkpoint is kept; lower loop.learning_rate or "
            "loop.clip, or check the data"
        )


def on_any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Tells whether the flag is set on any process: all of them go on or none does."""
    if accelerator.num_processes == 1:
        return flag
    summed = torch.tensor([float(flag)], device=accelerator.device)
    return bool(accelerator.reduce(summed, "sum").item() > 0)
