from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tests.train import small
from train.config import build
from train.data.degradation import KINDS, agree, degrade, upsample
from train.data.feed import batch_rng, set_batch_part
from train.data.pairs import PairConfig, pair_feed
from train.data.shards import ShardWriter, find_tiles
from train.data.tiles import ENLARGED, load_tiles, random_crops, to_tensor
from train.data.variation import EOSIN, HAEMATOXYLIN, vary_dyes, vary_sharpness, vary_stain
from train.errors import CheckpointError, DataError, TrainingDivergedError
from train.loop.checkpoint import load_checkpoint, save_checkpoint
from train.loop.folder import lock_folder
from train.loop.logs import Logs
from train.loop.schedule import LoopConfig, learning_rate
from train.loop.training import train
from train.stages.plain import PlainConfig
from wsisr.errors import UsageError
from wsisr.evaluation.measures.stain import RGB_FROM_HED
from wsisr.models.networks.swinir import SwinIR


def test_batches_are_functions_of_the_iteration(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    assert loaded.slides == ("train0", "train1")
    a = random_crops(loaded, batch_rng(0, 7), 4, 64)
    assert torch.equal(a, random_crops(loaded, batch_rng(0, 7), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 8), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 7, 1), 4, 64))


def test_processes_make_the_batches_that_would_be_made_without_them(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    scales, weights = (2, 4), (0.5, 0.5)
    loop = LoopConfig(accumulate=2)
    config = PairConfig(
        2, 32, scales, weights, sharpness=(0.0, 1.0), magnification=1.5, stain=1.2, loop=loop
    )
    plain, ahead = (pair_feed(config, loaded, workers) for workers in (0, 2))
    # in the order of the loop, then after a jump, as when a run is resumed
    for iteration in (3, 4, 9):
        for number in (2, 3):
            set_batch_part(number)
            pairs = zip(plain(iteration), ahead(iteration), strict=True)
            assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)
    set_batch_part(0)


def test_batches_are_made_in_full_precision(tiles: Path) -> None:
    # on a CPU the autocast of a step reaches what makes its batch
    loop = LoopConfig()
    config = PairConfig(8, 32, (2,), (1.0,), sharpness=(0.0, 1.0), dyes=0.5, loop=loop)
    feed = pair_feed(config, load_tiles(tiles / "train"), 0)
    low, high, _ = feed(0)
    with torch.autocast("cpu", torch.bfloat16):
        low_within, high_within, _ = feed(0)
    assert torch.equal(low, low_within)
    assert torch.equal(high, high_within)


def test_magnified_crops_are_reduced_tissue(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    # the tiles' mean colour stays, and half of the crops are those taken without
    crops = random_crops(loaded, batch_rng(0, 0), 64, 48, 1.3)
    assert crops.shape == (64, 3, 48, 48)
    mean = to_tensor(loaded.pixels[:]).mean((0, 2, 3))
    torch.testing.assert_close(crops.mean((0, 2, 3)), mean, atol=0.05, rtol=0)
    with pytest.raises(DataError, match="smaller than a crop of 256 px times 9"):
        random_crops(loaded, batch_rng(0, 0), 1, 256, 9)


def test_enlarged_crops_are_smooth(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    crops = random_crops(loaded, batch_rng(0, 0), 200, 32, enlargement=16)
    steps = crops.diff(dim=3).abs().mean((1, 2, 3))
    usual = random_crops(loaded, batch_rng(0, 0), 200, 32).diff(dim=3).abs().mean((1, 2, 3))
    smooth = float((steps < usual.min() / 2).float().mean())
    assert ENLARGED / 3 < smooth < ENLARGED * 1.5


def test_dyes_change_and_their_amounts_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    amounts = torch.rand(60, 2, 8, 8, generator=generator)
    assert np.array_equal(RGB_FROM_HED[:2], (HAEMATOXYLIN, EOSIN))
    dyes = torch.tensor((HAEMATOXYLIN, EOSIN))
    dyes = dyes / dyes.norm(dim=1, keepdim=True)
    hr = (-torch.einsum("bkhw,kc->bchw", amounts, dyes)).exp()
    varied = vary_dyes(hr, np.random.default_rng(0), 0.5)
    kept = (varied == hr).flatten(1).all(1)
    assert 0.3 < float(kept.float().mean()) < 0.7
    for image, amount in zip(varied[~kept], amounts[~kept], strict=True):
        # two dyes explain the image, and they are dyes: of positive density, of length 1
        density = -image.clamp_min(1e-6).log().flatten(1)
        found = torch.linalg.lstsq(amount.flatten(1).T, density.T)
        assert float((amount.flatten(1).T @ found.solution - density.T).abs().max()) < 1e-3
        torch.testing.assert_close(found.solution.norm(dim=1), torch.ones(2), atol=1e-3, rtol=0)
        assert float(found.solution.min()) > -1e-3
    assert torch.equal(varied, vary_dyes(hr, np.random.default_rng(0), 0.5))
    assert torch.equal(hr, vary_dyes(hr, np.random.default_rng(0), 0.0))


def test_stain_varies_by_factors_of_optical_density() -> None:
    hr = torch.rand(200, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    varied = vary_stain(hr, np.random.default_rng(0), 1.3)
    factors = varied.log() / hr.log()
    # one factor a channel: the same for all of its pixels, none for about half of the images
    torch.testing.assert_close(factors, factors.mean((2, 3), keepdim=True).expand_as(factors))
    logs = factors[..., 0, 0].log()
    left = (logs.abs() < 1e-4).all(1)
    assert 0.4 < float(left.float().mean()) < 0.6
    reach = math.log(1.3)
    assert reach < float(logs.abs().max()) <= reach * 4 / 3 + 1e-4
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_area_degradation_is_the_box_mean(scale: int) -> None:
    hr = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lr = degrade(hr, scale, np.random.default_rng(0), "area")
    means = hr.view(3, 3, 64 // scale, scale, 64 // scale, scale).mean((3, 5))
    torch.testing.assert_close(lr, (means * 255).round() / 255)


def test_scanner_degradation_is_seeded_and_leaves_most_alone() -> None:
    hr = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    clean = degrade(hr, 4, np.random.default_rng(0), "area")
    rough = degrade(hr, 4, np.random.default_rng(5), "scanner")
    assert torch.equal(rough, degrade(hr, 4, np.random.default_rng(5), "scanner"))
    changed = (rough != clean).flatten(1).any(1).float().mean()
    assert 0.1 < float(changed) < 0.45


def test_agreement_is_that_of_inference() -> None:
    hr = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    lr = F.avg_pool2d(hr, 4)
    agreed = agree(upsample(lr, 4), lr)
    assert float((F.avg_pool2d(agreed, 4) - lr).abs().max()) < 0.5 / 255


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


def test_values_of_yaml_are_what_fields_are_declared_to_be() -> None:
    values = {
        "batch": 2,
        "loop": {"learning_rate": "1e-4", "clip": float("inf"), "precision": False},
    }
    values |= {
        "loss": {"weights_by_scale": {"8": {"coarse": 11.0}}},
        "scales": [3],
        "scale_weights": [1],
    }
    config = build(PlainConfig, values | {"crop": 96, "init": None})
    assert config.loop.learning_rate == 1e-4
    assert config.loop.clip == float("inf")
    assert config.loop.precision == "no"
    assert config.loss.at_scale(8).coarse == 11.0
    assert config.scales == (3,)
    assert config.init == ""
    with pytest.raises(UsageError, match=r"loss\.pixel nan: must be a number"):
        build(PlainConfig, {"loss": {"pixel": float("nan")}})
    with pytest.raises(UsageError, match=r"batch 2\.5: must be a whole number"):
        build(PlainConfig, {"batch": 2.5})


def test_a_folder_can_be_held_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    with (
        lock_folder(tmp_path / "out"),
        pytest.raises(UsageError, match="another process"),
        lock_folder(tmp_path / "out"),
    ):
        pass
    monkeypatch.setattr(fcntl, "flock", refuse)
    # filelock then holds it by the file's being there
    for _ in range(2):
        with lock_folder(tmp_path / "other"):
            pass


def test_an_interrupted_command_says_so_and_goes_on(tiles: Path, tmp_path: Path) -> None:
    config = small.config("stage1")
    config["stage1"]["loop"] = small.LOOP | {"iterations": 100_000, "save_every": 100_000}
    file = small.write(tmp_path / "small.yaml", config)
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run"]
    command = [sys.executable, "-m", "train", "stage1", *map(str, arguments)]
    with subprocess.Popen(command, cwd=small.ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "run" / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.05)
        beside = small.command("stage1", *arguments)  # another one in the same folder
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted; give the same command again to go on"
    assert "Traceback" not in error
    found = load_checkpoint(tmp_path / "run")
    assert found is not None
    assert beside.returncode == 2
    assert "another process works in it" in beside.stderr.splitlines()[-1]
    last = f"loop.iterations={found[0]}"
    assert small.command("stage1", *arguments, "--set", last).returncode == 0


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


@pytest.mark.slow
def test_the_commands_make_a_model_that_upscales(tiles: Path, tmp_path: Path) -> None:
    file = small.write(tmp_path / "small.yaml", small.config())
    common = ("--config", file, "--data", tiles, "--threads", 1)
    done = small.command("run", *common, "--out", tmp_path / "run", "--name", "small")
    assert done.returncode == 0, done.stderr[-2000:]
    from wsisr.engine.array import upscale_array

    lr = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    model = str(tmp_path / "run" / "model")
    assert upscale_array(lr, 4, model=model).shape == (160, 120, 3)


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


def test_sharpness_varies_for_a_part_and_only_in_detail() -> None:
    hr = torch.rand(64, 3, 48, 40, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    detail = (hr - F.avg_pool2d(hr, 5, 1, 2, count_include_pad=False)).std((1, 2, 3))
    for amounts, stronger in (((0.9, 1.1), True), ((-0.6, -0.4), False)):
        rng, other = np.random.default_rng(5), np.random.default_rng(5)
        varied = vary_sharpness(hr, rng, amounts)
        vary_sharpness(hr * 0, other, amounts)
        assert rng.random() == other.random()
        kept = torch.tensor([torch.equal(a, b) for a, b in zip(varied, hr, strict=True)])
        assert 20 < int(kept.sum()) < 44
        torch.testing.assert_close(varied.mean((1, 2, 3)), hr.mean((1, 2, 3)), atol=1e-3, rtol=0)
        own = (varied - F.avg_pool2d(varied, 5, 1, 2, count_include_pad=False)).std((1, 2, 3))
        ratio = (own / detail)[~kept]
        assert bool((ratio > 1.5).all()) if stronger else bool((ratio < 0.7).all())
    assert float(vary_sharpness(hr * 2 - 0.4, np.random.default_rng(5), (2.0, 3.0)).max()) == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_degradations_draw_the_same_numbers_whatever_the_content(kind: str) -> None:
    states = []
    for hr in (torch.zeros(5, 3, 64, 64), torch.rand(5, 3, 64, 64)):
        rng = np.random.default_rng(3)
        lr = degrade(hr, 4, rng, kind)
        assert lr.shape == (5, 3, 16, 16)
        assert torch.equal((lr * 255).round() / 255, lr)
        assert torch.equal(lr, degrade(hr, 4, np.random.default_rng(3), kind))
        states.append(rng.bit_generator.state)
    assert states[0] == states[1]


def test_shards_hold_what_folders_hold_and_corrupt_tiles_stop(tiles: Path, tmp_path: Path) -> None:
    loose = load_tiles(tiles / "train")
    writer = ShardWriter(tmp_path / "train" / "all", limit=200_000)
    for tile in find_tiles(tiles / "train"):
        writer.add(tile.name, tile.read())
    writer.close()
    packed = load_tiles(tmp_path / "train")
    assert packed.names == loose.names
    assert np.array_equal(packed.pixels, loose.pixels)
    lazy = load_tiles(tmp_path / "train", memory=0)
    assert np.array_equal(np.stack(list(lazy.pixels)), loose.pixels)
    tile = find_tiles(tmp_path / "train")[3]
    with tile.file.open("r+b") as file:
        file.seek(tile.offset + 50)
        file.write(b"damage")
    with pytest.raises(DataError, match=r"1 of 6 tiles are unreadable, more than 1%"):
        load_tiles(tmp_path / "train")


def test_one_corrupt_tile_in_a_hundred_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "slide"
    place.mkdir()
    for i in range(101):
        Image.new("RGB", (8, 8), (i, i, i)).save(place / f"{i:03d}.png")
    (place / "050.png").write_bytes(b"no image")
    loaded = load_tiles(tmp_path)
    assert len(loaded.pixels) == len(loaded.names) == 100
    assert "slide/050.png" not in loaded.names
    assert "slide/050.png: skipped, unreadable" in caplog.text
    assert "1 of 101 tiles unreadable, left out" in caplog.text
    lazy = load_tiles(tmp_path, memory=0)
    assert lazy.pixels[50][0, 0, 0] == 51  # the next one stands in


def test_a_disk_that_fills_while_parts_are_exported_is_one_line(
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", str(file), "--data", str(tiles), "--out", str(tmp_path / "run")]
    sets = ("loop.iterations=2", "loop.save_every=1", "loop.validate_every=2")
    arguments += [item for value in sets for item in ("--set", value)]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SwinIR, "save_pretrained", full)
        assert small.launch("stage1", arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "No space left on device" in lines[0]
    found = load_checkpoint(tmp_path / "run")
    assert found is not None
    assert found[0] == 1
    assert small.launch("stage1", arguments) == 0  # goes on where it stood


def test_options_reach_the_loop_and_snapshots_are_kept(tiles: Path, tmp_path: Path) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    sets = ("loop.iterations=4", "loop.accumulate=2", "loop.keep_every=2", "loop.precision=no")
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run"]
    arguments += [item for value in sets for item in ("--set", value)]
    assert small.launch("stage1", list(map(str, arguments))) == 0
    assert [row["iteration"] for row in small.log(tmp_path / "run")] == ["1", "4"]
    kept = sorted(f.name for f in (tmp_path / "run" / "snapshots").iterdir())
    assert kept == ["0000002", "0000004"]


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        (["--data", "none"], "none/train: no .jpg", 1),
        (["--config", "none.yaml"], "none.yaml cannot be read", 2),
        (["--set", "loop.rate=1"], "loop.rate: is no key of this section", 2),
        (["--set", "batch"], "--set stage1.batch: does not fit", 2),
        (["--set", "crop=4096"], "128x128 px are smaller than a crop of 4096 px", 1),
        (["--set", "crop=63"], "crop 63: must be a multiple of 4, 4", 2),
        (["--set", "batch=0"], "batch 0: must be 1 or more", 2),
        (["--set", "scales=[]"], "scales []: must be one or more factors", 2),
        (["--set", "scales=[2, 4]"], "scale_weights [1.0]: must be a weight for each", 2),
        (["--set", "scales=4"], "scales 4: must be a list", 2),
        (["--set", "sharpness=[1]"], "sharpness [1]: must be a list of 2", 2),
        (
            ["--set", "degradation=foo"],
            "degradation 'foo': must be area, scanner, codeformer or realesrgan",
            2,
        ),
        (["--set", "loss=foo"], "section stage1: loss 'foo': must be mse or l1", 2),
        (["--set", "loop.iterations=abc"], "loop.iterations 'abc': must be a whole number", 2),
        (["--set", "loop.save_every=0"], "loop.save_every 0: must be 1 or more", 2),
        (["--set", "loop.precision=foo"], "loop.precision 'foo': must be no, bf16 or fp16", 2),
        (["--set", "loop.learning_rate=1e30"], "loop.learning_rate '1e30': must be 1 or less", 2),
        (["--set", "loop=3"], "loop 3: must be keys and values", 2),
        (["--set", "loop.iterations=["], "the value cannot be read as YAML", 2),
        (["--set", "model.foo=1"], "stage1.model: no network can be made of it", 2),
        (["--set", "crop=96"], "stage1.crop 96: must be a multiple of 64 for SwinIR", 2),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tiles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    said: str,
    code: int,
) -> None:
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", str(file), "--data", str(tiles), "--out", str(tmp_path / "run")]
    assert small.launch("stage1", [*arguments, *change]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert said in lines[0]


def test_slides_to_learn_from_and_to_validate_on_are_apart(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiles, tmp_path / "data")
    shutil.copytree(tiles / "train" / "train0", tmp_path / "data" / "val" / "train0")
    config = small.config()
    config["plain"] = small.PAIRS | {"model": {"width": 8, "blocks": 1}}
    file = small.write(tmp_path / "small.yaml", config)
    for stage in ("stage1", "autoencoder", "plain"):
        arguments = ["--config", file, "--data", tmp_path / "data", "--out", tmp_path / stage]
        assert small.launch(stage, list(map(str, arguments))) == 1
        assert "slide train0 is in train/ and val/" in capsys.readouterr().err


def test_a_log_takes_figures_that_come_later(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    logs.row("validation", {"iteration": 1, "psnr": 2.0})
    logs.row("validation", {"iteration": 2, "niqe": 4.0, "psnr": 3.0})
    logs.row("validation", {"iteration": 3, "psnr": 5.0})
    rows = [tuple(row.values()) for row in small.log(tmp_path, "validation")]
    assert rows == [("1", "2.0", ""), ("2", "3.0", "4.0"), ("3", "5.0", "")]


def test_a_log_forgets_what_a_killed_run_did_after_its_checkpoint(tmp_path: Path) -> None:
    logs = Logs(tmp_path, tensorboard=False)
    for iteration in (1, 2, 3):
        logs.row("log", {"iteration": iteration, "loss": 0.5})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("4,0.")  # torn
    resumed = Logs(tmp_path, tensorboard=False, start=2)
    resumed.forget()
    resumed.row("log", {"iteration": 3, "loss": 0.25})
    rows = [tuple(row.values()) for row in small.log(tmp_path)]
    assert rows == [("1", "0.5"), ("2", "0.5"), ("3", "0.25")]
