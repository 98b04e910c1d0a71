"""What of a training a checkpoint holds: networks, their optimizers, and averaged weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from train.errors import CheckpointError
from train.loop.checkpoint import load_checkpoint, save_checkpoint
from train.loop.ema import Ema, frozen_keys

log = logging.getLogger("train")

MODEL, DISCRIMINATOR = "main", "discriminator"
"""Names of the networks of a training, in its checkpoints."""


@dataclass
class Trained:
    """A network with its optimizer.

    Attributes:
        module: the network, wrapped by accelerate once the training runs.
        optimizer: of its parameters that are trained.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def state(self, accelerator: Accelerator, name: str) -> tuple[dict[str, Tensor], Any]:
        """Gives the tensors by name, and the optimizer's groups as JSON.

        Frozen parameters are left out, since they come from elsewhere.
        """
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
        """Takes over what `state` gave, before `accelerator.prepare`."""
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
    """Loads the weights of a checkpoint, which may leave out the frozen ones.

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


def save(
    out: Path, done: int, networks: Mapping[str, Trained], ema: Ema, accelerator: Accelerator
) -> None:
    """Writes a checkpoint of everything and makes it the current one.

    Args:
        out: folder of the run.
        done: iterations that were done.
        networks: by name.
        ema: the averaged weights of the model.
        accelerator: where the training runs.

    Raises:
        CheckpointError: it cannot be written; the previous one stays the current one.
    """
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {"groups": {}}
    for name, network in networks.items():
        own, meta["groups"][name] = network.state(accelerator, name)
        tensors |= own
    frozen = frozen_keys(accelerator.unwrap_model(networks[MODEL].module))
    tensors |= {f"ema/{k}": v for k, v in ema.shadow.items() if k not in frozen}
    if accelerator.scaler is not None:
        meta["scaler"] = accelerator.scaler.state_dict()
    save_checkpoint(out, done, tensors, meta)


def resume(out: Path, networks: Mapping[str, Trained], ema: Ema, accelerator: Accelerator) -> int:
    """Loads the current checkpoint, if there is one, into everything.

    Args:
        out: folder of the run.
        networks: by name, not yet prepared by accelerate.
        ema: the averaged weights of the model.
        accelerator: where the training runs.

    Returns:
        The iterations that were done; 0 without a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another network or training.
    """
    found = load_checkpoint(out)
    if found is None:
        return 0
    iteration, tensors, meta = found
    if set(meta["groups"]) != set(networks):
        raise CheckpointError(f"{out}: the checkpoint is of another training; use another --out")
    for name, network in networks.items():
        network.load(name, tensors, meta["groups"][name])
    ema.load(_below(tensors, "ema/"))
    if accelerator.scaler is not None and "scaler" in meta:
        accelerator.scaler.load_state_dict(meta["scaler"])
    log.info("resumed at iteration %d", iteration)
    return iteration


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Gives the tensors whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
