"""TODO-DOC"""

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
