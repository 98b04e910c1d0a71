"""The loop: schedule, resume, divergence, Ctrl-C, several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.train import small
from train.data.feed import batch_rng
from train.errors import TrainingDivergedError
from train.loop.checkpoint import load_checkpoint
from train.loop.schedule import LoopConfig, learning_rate
from train.loop.training import train


def test_learning_rate_rises_and_falls() -> None:
    config = LoopConfig(iterations=100, learning_rate=1.0, warmup=10, final_rate=0.1)
    rates = [learning_rate(config, i) for i in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def fit(out: Path, iterations: int, stop_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Linear(4, 1)

    def step(net: nn.Module, iteration: int) -> dict[str, torch.Tensor]:
        if iteration == stop_at:
            raise KeyboardInterrupt
        x = torch.from_numpy(batch_rng(0, iteration).standard_normal((8, 4), np.float32))
        return {"loss": F.mse_loss(net(x)[:, 0], x.sum(1))}

    config = LoopConfig(iterations=iterations, learning_rate=1e-2, save_every=5, ema=0.9)
    return dict(train(config, module, out, step, validate=lambda state, i: {"done": float(i)}))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", 30)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "parts", 30, stop_at=17)
    resumed = fit(tmp_path / "parts", 30)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key])


def test_a_diverged_run_keeps_the_last_good_state(tmp_path: Path) -> None:
    fit(tmp_path, 10)
    before = (tmp_path / "checkpoint.json").read_bytes()
    module = nn.Linear(4, 1)
    with pytest.raises(TrainingDivergedError, match=r"iteration 1\d: the loss, its gradient"):
        train(
            LoopConfig(iterations=20),
            module,
            tmp_path,
            lambda net, i: {"loss": net(torch.full((1, 4), float("nan"))).mean()},
            validate=lambda state, i: {},
        )
    assert (tmp_path / "checkpoint.json").read_bytes() == before


def test_weights_that_are_of_no_use_do_not_replace_a_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path, 10)
    before = (tmp_path / "checkpoint.json").read_bytes()

    class Poisoned(torch.autograd.Function):
        """A gradient that is not finite of a value that is."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> Any:
            return grads[0] * float("nan")

    def poisoned(net: nn.Module, iteration: int) -> dict[str, torch.Tensor]:
        loss = net(torch.ones(1, 4)).square().mean()
        return {"loss": Poisoned.apply(loss) if iteration == 12 else loss}

    def too_far(net: nn.Module, iteration: int) -> dict[str, torch.Tensor]:
        # finite until the weights have changed by what iteration 13 does to them
        out = net(torch.ones(1, 4)).mean()
        return {"loss": out if iteration < 14 else out * float("inf")}

    config = LoopConfig(iterations=20, save_every=14)
    discriminator = nn.Linear(4, 1)

    def discriminator_loss(net: nn.Module, iteration: int) -> torch.Tensor:
        return net(torch.ones(1, 4)).mean() * (float("inf") if iteration == 12 else 1)

    with pytest.raises(TrainingDivergedError, match="weights are not finite"):
        train(
            config,
            nn.Linear(4, 1),
            tmp_path / "adversary",
            lambda net, i: {"loss": net(torch.ones(1, 4)).square().mean()},
            validate=lambda state, i: {},
            adversary=(discriminator, discriminator_loss),
        )
    assert load_checkpoint(tmp_path / "adversary") is None
    for step in (poisoned, too_far):
        with pytest.raises(TrainingDivergedError, match="weights are not finite"):
            train(config, nn.Linear(4, 1), tmp_path, step, validate=lambda state, i: {})
        assert (tmp_path / "checkpoint.json").read_bytes() == before
    assert load_checkpoint(tmp_path) is not None


def test_ctrl_c_saves_and_the_next_one_ends_at_once(tmp_path: Path) -> None:
    module = nn.Linear(4, 1)

    def step(net: nn.Module, iteration: int, times: int = 1) -> dict[str, torch.Tensor]:
        if iteration == 6:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return {"loss": net(torch.ones(1, 4)).square().mean()}

    config = LoopConfig(iterations=20)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config, module, tmp_path / "once", step, validate=lambda state, i: {})
    found = load_checkpoint(tmp_path / "once")
    assert found is not None
    assert found[0] == 7
    twice = partial(step, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(config, module, tmp_path / "twice", twice, validate=lambda state, i: {})
    assert load_checkpoint(tmp_path / "twice") is None
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_is_ignored_stays_so(tmp_path: Path) -> None:
    def step(net: nn.Module, iteration: int) -> dict[str, torch.Tensor]:
        signal.raise_signal(signal.SIGINT)
        return {"loss": net(torch.ones(1, 4)).square().mean()}

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = LoopConfig(iterations=3)
        train(config, nn.Linear(4, 1), tmp_path, step, validate=lambda state, i: {})
    finally:
        signal.signal(signal.SIGINT, before)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[0] == 3


GRADIENTS = """
import atexit
import sys
from pathlib import Path
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from train.data.feed import batch_rng
from train.loop.training import LoopConfig, train

out, accumulate = Path(sys.argv[1]), int(sys.argv[2])
# what is registered first is called last
atexit.register(
    lambda: print("left a group" if torch.distributed.is_initialized() else "left none")
)
accelerator = Accelerator(cpu=True)
if accelerator.is_main_process:
    print("processes", accelerator.num_processes)
torch.manual_seed(0)
module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
seen = []
register_optimizer_step_pre_hook(
    lambda o, a, k: seen.append([p.grad.clone() for g in o.param_groups for p in g["params"]])
)
def step(net, iteration):
    x = torch.from_numpy(batch_rng(0, iteration).standard_normal((8, 4), "float32"))
    return {"loss": F.mse_loss(net(x)[:, 0], x.sum(1))}
config = LoopConfig(iterations=3, accumulate=accumulate, save_every=3)
train(config, module, out, step, validate=lambda s, i: {}, accelerator=accelerator)
if accelerator.is_main_process:
    torch.save(seen, out / "gradients.pt")
"""


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(GRADIENTS)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{small.ROOT}:{small.ROOT / 'kernels'}",
    }
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for name, launch, accumulate in (("one", [], 2), ("two", torchrun, 1)):
        command = [sys.executable, *launch, script, tmp_path / name, accumulate]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"processes {3 - accumulate}" in done.stdout
        # a group that is still there when Python shuts down aborts one run in some dozens
        assert "left a group" not in done.stdout
        assert "left none" in done.stdout
    one, two = (torch.load(tmp_path / n / "gradients.pt") for n in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_torchrun_makes_one_training_of_a_stage(tiles: Path, tmp_path: Path) -> None:
    config = small.config("stage1")
    config["stage1"] |= {"batch": 1, "loop": small.LOOP | {"iterations": 2, "validate_every": 2}}
    file = small.write(tmp_path / "small.yaml", config)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{small.ROOT}:{small.ROOT / 'kernels'}",
    }
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    states = []
    for name, launch, accumulate in (("one", ["-m"], 2), ("two", [*torchrun, "-m"], 1)):
        command = [
            sys.executable,
            *launch,
            "train",
            "stage1",
            "--config",
            file,
            "--data",
            tiles,
        ]
        command += ["--out", tmp_path / name, "--set", f"loop.accumulate={accumulate}"]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert [row["iteration"] for row in small.log(tmp_path / name)] == ["1", "2"]
        found = load_checkpoint(tmp_path / name)
        assert found is not None
        states.append(found[1])
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-4, atol=1e-5)
