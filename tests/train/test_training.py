from __future__ import annotations

import csv
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from train.data import batch_rng, load_tiles, random_crops
from train.degradation import agree, degrade, upsample
from train.loop import LoopConfig, TrainingDivergedError, learning_rate, train

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textured tiles in the layout of the data package."""
    folder = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            coarse = rng.integers(60, 220, (24, 24, 3), np.uint8)
            image = Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC)
            place = folder / split / f"slide{i % 2}"
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{i}.png")
    return folder


def test_batches_are_functions_of_the_iteration(tiles: Path) -> None:
    loaded = load_tiles(tiles / "train")
    assert loaded.slides == ("slide0", "slide1")
    a = random_crops(loaded, batch_rng(0, 7), 4, 64)
    assert torch.equal(a, random_crops(loaded, batch_rng(0, 7), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 8), 4, 64))
    assert not torch.equal(a, random_crops(loaded, batch_rng(0, 7, 1), 4, 64))


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
    before = (tmp_path / "state.pt").read_bytes()
    module = nn.Linear(4, 1)
    with pytest.raises(TrainingDivergedError, match="iteration 10"):
        train(
            LoopConfig(iterations=20),
            module,
            tmp_path,
            lambda net, i: {"loss": net(torch.full((1, 4), float("nan"))).mean()},
            validate=lambda state, i: {},
        )
    assert (tmp_path / "state.pt").read_bytes() == before


CONFIG = {
    "stage1": {
        "model": {"embed_dim": 16, "depths": [2], "num_heads": [2], "num_feat": 8},
        "batch": 2,
        "crop": 64,
        "consistent": True,
        "loss": "l1",
    },
    "autoencoder": {
        "model": {
            "encoder_block_out_channels": [8] * 4,
            "decoder_block_out_channels": [8] * 4,
            "num_encoder_blocks": [0, 1, 1, 1],
            "num_decoder_blocks": [1, 1, 1, 0],
        },
        "batch": 2,
        "crop": 64,
        "adversarial_from": 15,
    },
    "latents": {},
    "stage2": {
        "unet": {
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            "use_linear_projection": True,
        },
        "batch": 8,
        "crop": 16,
        "held_out": 1,
    },
}
LOOP = {"iterations": 40, "learning_rate": 3e-3, "save_every": 20, "validate_every": 40}


def run(stage: str, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"train.{stage}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(run_folder: Path) -> list[float]:
    with (run_folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow
def test_all_stages_make_a_model_that_upscales(tiles: Path, tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    for stage in ("stage1", "autoencoder", "stage2"):
        config[stage]["loop"] = LOOP
    config["latents"] = {
        "restoration": str(tmp_path / "stage1" / "restoration"),
        "vae": str(tmp_path / "autoencoder" / "vae"),
    }
    config["stage2"]["bank"] = str(tmp_path / "latents")
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    common = ("--config", file, "--data", tiles, "--threads", 1)
    for stage in ("stage1", "autoencoder", "latents", "stage2"):
        run(stage, *common, "--out", tmp_path / stage)
    assert losses(tmp_path / "autoencoder")[1] < losses(tmp_path / "autoencoder")[0]
    model = tmp_path / "model"
    run(
        "export",
        *("--stage1", tmp_path / "stage1", "--autoencoder", tmp_path / "autoencoder"),
        *("--stage2", tmp_path / "stage2", "--name", "small", "--out", model),
        *("--sampling", '{"steps": 2, "start_from": "condition", "start_timestep": 400}'),
    )
    from wsisr.engine import upscale_array

    lr = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    assert upscale_array(lr, 4, model=str(model)).shape == (160, 120, 3)
