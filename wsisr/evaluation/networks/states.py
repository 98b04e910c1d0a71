"""Reading published weights without running code that comes with them."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wsisr.errors import ModelError

State = dict[str, Tensor]
WRAPPERS = ("state_dict", "desc", "model")
"""Names under which training scripts put the tensors into their checkpoints."""
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
"""Types of the tensors in a TorchScript archive."""


def load_state(path: Path) -> State:
    """Return {name: tensor} of a weights file, in float32 on the CPU.

    Takes safetensors, PyTorch's zip and legacy formats, and TorchScript archives (their tensors,
    not their code). Raises `ModelError` for anything else.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        elif _is_torchscript(path):
            content = _torchscript_tensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as plain weights: {_line(error)}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} holds more than plain weights: {_line(error)}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds no table of tensors")
    return {
        str(name): value.float() if value.is_floating_point() else value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Load a state strictly and return the module, frozen, in evaluation mode.

    Raises `ModelError` naming the first tensor that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    # counters of batch normalization play no part in evaluation and are often left out
    own = {name: value for name, value in own.items() if "num_batches_tracked" not in name}
    given = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    if lacking := sorted(own.keys() - given.keys()):
        raise ModelError(f"{origin}: {len(lacking)} tensors missing, the first is {lacking[0]}")
    if extra := sorted(given.keys() - own.keys()):
        raise ModelError(f"{origin}: {len(extra)} unknown tensors, the first is {extra[0]}")
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise ModelError(
                f"{origin}: {name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
            )
    module.load_state_dict(given, strict=False)
    return module.eval().requires_grad_(False)


def count(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """Return how many numbered blocks there are: `pattern` holds one `{}` for the number."""
    number = first
    while any(name.startswith(pattern.format(number)) for name in state):
        number += 1
    return number - first


def shape(state: Mapping[str, Tensor], name: str, origin: str) -> tuple[int, ...]:
    """Return the shape of a tensor that a network's sizes follow from; `ModelError` without it."""
    if name not in state:
        raise ModelError(f"{origin} holds no tensor {name}: weights of another network")
    return tuple(state[name].shape)


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Object:
    """Stands for any object of a TorchScript archive: attributes, no behaviour."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {})


class _TensorsOnly(pickle.Unpickler):
    """Rebuilds tensors from an archive's storages; every class of it becomes a plain object."""

    def __init__(self, pickled: bytes, read: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(pickled))
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle":
            # marks of a list's or a value's type
            return lambda value, *_: value
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module.startswith("__torch__"):
            return _Object
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in weights")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        return torch.frombuffer(bytearray(self._read(key)), dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _torchscript_tensors(path: Path) -> State:
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        tree = _TensorsOnly(
            archive.read(pickled), lambda key: archive.read(f"{root}data/{key}")
        ).load()
    return dict(_tensors_of(tree, ""))


def _tensors_of(node: Any, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Object):
            found += _tensors_of(value, f"{prefix}{name}.")
    return found
