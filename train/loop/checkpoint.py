"""Checkpoints in safetensors pieces of less than 16 MB, switched to in one step.

    RUN/checkpoint.json            names the current folder; replaced atomically
    RUN/checkpoint-00000500/       index.json, 0000.safetensors, 0001.safetensors, ...

A new checkpoint is written whole, to its own folder, before `checkpoint.json` names it; the old one
is removed only then. So a full disk or a kill at any moment leaves a valid checkpoint. Tensors
larger than a piece are cut along their flattened length.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load, save
from torch import Tensor

from train.errors import CheckpointError
from wsisr.files import write_atomic

PIECE = 15_000_000
"""Bytes of tensor data in one file."""
POINTER = "checkpoint.json"
"""Names the folder of the current checkpoint."""


def save_checkpoint(
    run: Path, iteration: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> None:
    """Writes a checkpoint and makes it the current one.

    Args:
        run: folder of the run.
        iteration: names the checkpoint.
        tensors: any dtypes, any device. At most one piece of them is held in memory twice.
        meta: what else belongs to the state; JSON.

    Raises:
        CheckpointError: it cannot be written; the previous one stays the current one.
    """
    name = f"checkpoint-{iteration:08d}"
    partial = run / f"{name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        index: dict[str, Any] = {"iteration": iteration, "meta": dict(meta), "pieces": []}
        index["shapes"] = {key: list(value.shape) for key, value in tensors.items()}
        for number, piece in enumerate(_pieces(tensors)):
            data = save(piece)
            file = f"{number:04d}.safetensors"
            _write_synced(partial / file, data)
            index["pieces"].append({"file": file, "sha256": hashlib.sha256(data).hexdigest()})
        _write_synced(partial / "index.json", json.dumps(index).encode())
        final = run / name
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        write_atomic(run / POINTER, json.dumps({"folder": name}).encode())
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        before = current_checkpoint(run)
        kept = f"{before.name} is kept" if before else "there is none before it"
        raise CheckpointError(
            f"{run}: the checkpoint of iteration {iteration} cannot be written ({error.strerror}); "
            f"{kept}; make room and run the same command again"
        ) from error
    for old in run.glob("checkpoint-*"):
        if old.name != name:
            shutil.rmtree(old, ignore_errors=True)


def current_checkpoint(run: Path) -> Path | None:
    """Finds the folder of the current checkpoint.

    Returns:
        The folder, or None where there is no checkpoint.

    Raises:
        CheckpointError: the pointer is damaged or names a folder that is not there.
    """
    pointer = run / POINTER
    if not pointer.exists():
        return None
    try:
        folder = run / str(json.loads(pointer.read_text())["folder"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{pointer} is damaged; name a checkpoint folder in it") from error
    if not folder.is_dir():
        raise CheckpointError(f"{pointer} names {folder.name}, which is missing; restore it")
    return folder


def load_checkpoint(run: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """Reads the current checkpoint.

    Returns:
        Iteration, tensors on the CPU and what else belongs to the state; None without a checkpoint.

    Raises:
        CheckpointError: a file is missing or not what was written.
    """
    folder = current_checkpoint(run)
    if folder is None:
        return None
    try:
        index = json.loads((folder / "index.json").read_text())
        parts: dict[str, list[Tensor]] = {}
        for piece in index["pieces"]:
            data = (folder / piece["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != piece["sha256"]:
                raise CheckpointError(
                    f"{folder / piece['file']} is damaged; restore it or delete {run / POINTER} "
                    "to start anew"
                )
            for key, value in sorted(load(data).items()):
                parts.setdefault(key.rsplit("#", 1)[0], []).append(value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder} cannot be read ({error}); restore it") from error
    tensors = {key: torch.cat(parts[key]).reshape(shape) for key, shape in index["shapes"].items()}
    return int(index["iteration"]), tensors, index["meta"]


def _pieces(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors, flattened and cut, in groups of at most `PIECE` bytes."""
    piece: dict[str, Tensor] = {}
    size = 0
    for key, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        step = PIECE // flat.element_size()
        for start in range(0, max(flat.numel(), 1), step):
            # a copy: safetensors refuses tensors that share memory
            part = flat[start : start + step].to("cpu", copy=True)
            if size + part.nbytes > PIECE and piece:
                yield piece
                piece, size = {}, 0
            piece[f"{key}#{start:012d}"] = part
            size += part.nbytes
    if piece:
        yield piece


def _write_synced(path: Path, data: bytes) -> None:
    """Writes a file and has the disk hold it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def save_part(part: ModelMixin, folder: Path, one_file: bool = False) -> None:
    """Writes a network as diffusers does.

    What is there goes first: whoever reads the folder takes all the weights in it.

    Args:
        part: the network.
        folder: where to; it is made where it is missing.
        one_file: whether the weights go into one file, not into pieces of less than 16 MB.

    Raises:
        OSError: the folder cannot be written.
    """
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    part.save_pretrained(folder, max_shard_size="1TB" if one_file else PIECE)
