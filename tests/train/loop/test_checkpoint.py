"""Checkpoints, full disks, and networks that a checkpoint is not of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from train.errors import CheckpointError
from train.loop.checkpoint import load_checkpoint, save_checkpoint
from train.loop.schedule import LoopConfig
from train.loop.training import train


def test_a_checkpoint_of_another_network_is_told(tiles: Path, tmp_path: Path) -> None:
    loop = LoopConfig(iterations=2)
    for module in (nn.Linear(4, 1), nn.Sequential(nn.Linear(4, 1)), nn.Linear(4, 1, bias=False)):

        def step(net: nn.Module, iteration: int) -> dict[str, torch.Tensor]:
            return {"loss": net(torch.ones(1, 4)).square().mean()}

        if not (tmp_path / "checkpoint.json").exists():
            train(loop, module, tmp_path, step, validate=lambda state, i: {})
            continue
        with pytest.raises(CheckpointError, match="is of another network"):
            train(loop, module, tmp_path, step, validate=lambda state, i: {})


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    old = {"a": torch.arange(10.0)}
    save_checkpoint(tmp_path, 1, old, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="checkpoint-00000001 is kept"):
            save_checkpoint(tmp_path, 2, {"a": torch.zeros(1 << 20)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 1
    assert torch.equal(found[1]["a"], old["a"])
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoints_come_in_small_files_and_notice_damage(tmp_path: Path) -> None:
    state = {
        "big": torch.randn(5_000_000),
        "half": torch.ones(3, 2).bfloat16(),
        "n": torch.tensor(7),
    }
    save_checkpoint(tmp_path, 1, {"gone": torch.zeros(1)}, {})
    save_checkpoint(tmp_path, 2, state, {"x": [1]})
    assert len(list(tmp_path.glob("checkpoint-*"))) == 1
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert max(f.stat().st_size for f in files) < 16_000_000
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[2] == {"x": [1]}
    for key, value in state.items():
        assert torch.equal(found[1][key], value)
        assert found[1][key].dtype == value.dtype
    piece = max(files, key=lambda f: f.stat().st_size)
    with piece.open("r+b") as file:
        file.seek(9_000_000)
        file.write(b"damage")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path)
