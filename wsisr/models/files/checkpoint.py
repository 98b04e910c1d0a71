"""Checkpoints of others: one file of tensors, read without ever running what is in it."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from wsisr.errors import ModelError
from wsisr.models.files.layout import CHECKPOINT_SUFFIXES

WRAPPERS = ("state_dict", "params_ema", "params", "model_state_dict", "model", "net", "desc")
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
    """Reads a file of weights that a network can be built from.

    Wrappers of trainers (`state_dict`, `params_ema`, `module.` …) are taken off.

    Args:
        file: a file with one of `CHECKPOINT_SUFFIXES`.

    Raises:
        ModelError: no such file, no checkpoint, one with code in it, or weights that are not
            finite.
    """
    if file.is_file() and file.suffix not in CHECKPOINT_SUFFIXES:
        raise ModelError(f"{file}: not a checkpoint; wsisr reads {', '.join(CHECKPOINT_SUFFIXES)}")
    checkpoint = read_tensors(file)
    tensors = dict(checkpoint.tensors)
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    check_finite(tensors, str(file))
    return Checkpoint(file, tensors, checkpoint.beside)


def read_tensors(file: Path) -> Checkpoint:
    """Reads all tensors of a .safetensors file, or of a pickle that holds nothing but weights.

    A pickle goes through `torch.load(weights_only=True)`, which refuses whatever could run code.

    Args:
        file: of any name; all but .safetensors are taken for pickles.

    Raises:
        ModelError: no such file, an unreadable one, one with code in it, or one without tensors.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    content = read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    weights, beside = _unwrap(content)
    tensors = {str(key): value for key, value in weights.items() if isinstance(value, Tensor)}
    beside += [str(key) for key, value in weights.items() if not isinstance(value, Tensor)]
    if not tensors:
        raise ModelError(f"{file}: holds no weights")
    for key, value in tensors.items():
        # a tensor without steps can claim any size
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ModelError(f"{file}: {key[:200]} is larger than what is stored of it")
    return Checkpoint(file, tensors, tuple(beside))


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Reads the tensors of a .safetensors file, of the types that they have there.

    Args:
        file: the file.

    Raises:
        ModelError: it is unreadable.
    """
    try:
        return dict(load_file(file))
    except Exception as error:  # its reader raises errors of any kind for what is no such file
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ModelError(f"{file}: not a readable safetensors file ({reason})") from error


def check_finite(tensors: Mapping[str, Tensor], place: str) -> None:
    """Refuses weights that are not finite.

    Args:
        tensors: name -> tensor.
        place: the file or folder that they come from.

    Raises:
        ModelError: a floating-point tensor holds NaN or infinity.
    """
    for key, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ModelError(f"{place}: weights of {key} are not finite (NaN or infinite)")


def count_blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Counts the blocks of a module list.

    Args:
        tensors: name -> tensor.
        prefix: what the names of the blocks' tensors begin with, in front of a block's number.

    Returns:
        How many different numbers there are.
    """
    numbered = re.compile(rf"{re.escape(prefix)}([0-9]+)")
    return len({match[1] for key in tensors if (match := numbered.match(key))})


def require(tensors: Mapping[str, Tensor], key: str, place: str | None = None) -> Tensor:
    """Gives a tensor that must be there.

    Args:
        tensors: name -> tensor.
        key: the name.
        place: what the text of an error begins with; None where the caller completes it.

    Raises:
        ModelError: the tensor is missing.
    """
    if key not in tensors:
        where = "" if place is None else f"{place}: "
        raise ModelError(f"{where}weights are missing, among them {key}")
    return tensors[key]


def _read_pickle(file: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if zipfile.is_zipfile(file) and _is_compressed(file):
                raise ValueError("torch stores plainly; what is compressed could be of any size")
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


def _is_compressed(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())


def _unwrap(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Takes a trainer's wrapper off: the weights, and the names of what lies beside them."""
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            return inner, [str(other) for other in content if other != key]
    return content, []
