"""Weights of published networks: TorchScript archives beside what `wsisr.models.files` reads."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.models.files import fill, read_tensors

State = dict[str, Tensor]
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
MAX_COMPRESSED = 64 << 20
"""Bytes that the compressed parts of an archive, its code, may have."""
COUNTER = "num_batches_tracked"
"""Counters of batch normalization play no part in evaluation and are often left out."""


def load_state(path: Path) -> State:
    """Reads the tensors of a weights file, in float32 on the CPU.

    Args:
        path: safetensors, PyTorch's zip and legacy formats, or a TorchScript archive, of which the
            tensors are read and not the code.

    Returns:
        Name -> tensor.

    Raises:
        ModelError: anything else.
    """
    if _is_torchscript(path):
        tensors: Mapping[str, Tensor] = _torchscript_tensors(path)
    else:
        tensors = read_tensors(path).tensors
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def fill_frozen(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> nn.Module:
    """Loads a state strictly and freezes the network, in evaluation mode.

    Args:
        module: the network, changed in place.
        state: name -> tensor.
        origin: what the text of an error begins with.

    Returns:
        The network.

    Raises:
        ModelError: a tensor is missing, unknown or of another shape; names the first one.
    """
    counters = {name: value for name, value in module.state_dict().items() if COUNTER in name}
    given = {name: value for name, value in state.items() if COUNTER not in name}
    fill(module, {**given, **counters}, origin)
    return module.eval().requires_grad_(False)


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


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
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor is larger than what is stored of it")
    return storage.as_strided(size, stride, offset).clone()


def _torchscript_tensors(path: Path) -> State:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = pickled.removesuffix("data.pkl")
            # tensors are stored plainly; what is compressed could be of any size
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > path.stat().st_size + MAX_COMPRESSED:
                raise ModelError("it would take too much memory")
            tree = _TensorsOnly(
                archive.read(pickled), lambda key: archive.read(f"{root}data/{key}")
            ).load()
        return dict(_tensors_of(tree, ""))
    except Exception as error:  # bytes that are no archive of tensors make the reader fail anyhow
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: not an archive of plain weights ({line})") from error


def _tensors_of(node: Any, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Object):
            found += _tensors_of(value, f"{prefix}{name}.")
    return found
