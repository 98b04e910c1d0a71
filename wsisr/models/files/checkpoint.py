"""Checkpoints of others: one file of tensors, read without ever running what is in it."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wsisr.errors import ModelError

PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
SUFFIXES = (".safetensors", *PICKLES)
WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model", "net")
"""Entries under which trainers keep the weights; averaged ones are wanted before plain ones."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        file: where they come from.
        tensors: name -> tensor on the CPU, of the type it has in the file.
        beside: names of entries that are no weights (step counts, optimiser states …).
    """

    file: Path
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...] = ()


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a .safetensors file, or a pickle whose contents are nothing but tensors and numbers.

    A pickle goes through `torch.load(weights_only=True)`, which refuses whatever could run code.
    Wrappers of trainers (`state_dict`, `params_ema`, `module.` …) are taken off.

    Raises:
        ModelError: no such file, no checkpoint, one with code in it, or weights that are not
            finite.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    if file.suffix not in SUFFIXES:
        raise ModelError(f"{file}: not a checkpoint; wsisr reads {', '.join(SUFFIXES)}")
    content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    weights, beside = _unwrap(content)
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    beside += [str(key) for key, value in weights.items() if not isinstance(value, Tensor)]
    if not tensors:
        raise ModelError(f"{file}: holds no weights")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{file}: weights of {key} are not finite (NaN or infinite)")
    return Checkpoint(file, tensors, tuple(beside))


def count_blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Length of the module list whose keys begin with `prefix` and a number; 0 without any."""
    start = len(prefix)
    numbers = {key[start:].partition(".")[0] for key in tensors if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def require(tensors: Mapping[str, Tensor], key: str) -> Tensor:
    """A tensor that must be there. Raises ModelError, which the caller completes with the file."""
    if key not in tensors:
        raise ModelError(f"weights are missing, among them {key}")
    return tensors[key]


def _read_safetensors(file: Path) -> Mapping[str, Any]:
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: not a readable safetensors file ({error})") from error


def _read_pickle(file: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # mapped, not read: a full checkpoint has 5 GB, of which parts are used one by one
            content = torch.load(
                file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
            )
    except Exception as error:  # bytes that are no pickle make the reader fail in any way
        # torch's own text advises to load the file unsafely, so it is not passed on
        raise ModelError(
            f"{file}: refused; it is damaged or holds more than plain weights (which could be "
            "code; nothing in it was run). Where it can be trusted, save its tensors as "
            ".safetensors"
        ) from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{file}: holds a {type(content).__name__}, not named weights")
    return content


def _unwrap(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    beside: list[str] = []
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            beside += [str(other) for other in content if other != key]
            return inner, beside
    return content, beside
