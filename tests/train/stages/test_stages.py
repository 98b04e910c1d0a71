"""Each stage learns, and together they make a model that loads."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import save_file

import train.run
import train.stages.latents
from tests.models.published.test_base import folder, original  # noqa: F401  (fixtures)
from tests.train import small
from train.config import build
from train.errors import DataError
from train.loop.checkpoint import load_checkpoint, save_part
from train.loop.command import Run
from train.run import complete_config, planned_stages
from train.stages.autoencoder import AutoencoderConfig
from train.stages.autoencoder import fit as fit_autoencoder
from train.stages.export import main
from train.stages.latents import BankConfig, load_bank, write_bank
from train.stages.stage1 import Stage1Config
from train.stages.stage1 import fit as fit_stage1
from train.stages.stage2 import Stage2Config
from train.stages.stage2 import fit as fit_stage2
from wsisr.engine.array import upscale_image
from wsisr.models import SHIPPED, from_pretrained
from wsisr.models.files.card import read_card
from wsisr.models.files.parts import load_restoration, load_state


def falls(folder: Path, key: str = "loss") -> bool:  # noqa: F811
    rows = small.log(folder)
    assert [row["iteration"] for row in rows] == ["1", "20"]
    return float(rows[-1][key]) < 0.9 * float(rows[0][key])


def bank(place: Path, channels: int = 4, side: int = 16) -> str:
    """Latents whose noise can be told from them: they are constant."""
    place.mkdir()
    pairs = {k: torch.ones(4, channels, side, side).half() for k in ("clean", "condition")}
    save_file(pairs, place / "bank-0000.safetensors")
    return str(place)


def test_stage_1_learns_and_draws_its_validation(tiles: Path, tmp_path: Path) -> None:
    fit_stage1(build(Stage1Config, small.config()["stage1"]), Run(tiles, tmp_path))
    assert falls(tmp_path)
    assert (tmp_path / "restoration" / "config.json").exists()
    with Image.open(tmp_path / "pictures" / "0000020.png") as strip:
        assert strip.width == 3 * 64 + 2 * 8  # LR, restored, HR


def test_the_autoencoder_learns(tiles: Path, tmp_path: Path) -> None:
    fit_autoencoder(build(AutoencoderConfig, small.config()["autoencoder"]), Run(tiles, tmp_path))
    assert falls(tmp_path)
    assert float(small.log(tmp_path, "validation")[-1]["scaling_factor"]) > 0
    with Image.open(tmp_path / "pictures" / "0000020.png") as strip:
        assert strip.width == 2 * 64 + 8  # decoded, HR


def test_stage_2_learns(tiles: Path, tmp_path: Path) -> None:
    values = small.config()["stage2"] | {"bank": bank(tmp_path / "bank")}
    fit_stage2(build(Stage2Config, values), Run(tiles, tmp_path))
    assert falls(tmp_path)


def test_a_bank_is_shared_out_is_all_of_one_recipe_and_shows_what_stage_2_draws(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    AutoencoderTiny(**small.CONFIG["autoencoder"]["model"]).save_pretrained(tmp_path / "vae")
    values = {"vae": str(tmp_path / "vae"), "passes": 2}
    monkeypatch.setattr(train.stages.latents, "SHARD", 5)
    config = build(BankConfig, values)
    write_bank(config, Run(tiles, tmp_path / "one"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        write_bank(config, Run(tiles, tmp_path / "two"))
        assert (tmp_path / "two" / "finished").exists() == (rank == "1")
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    one, two = (load_bank(tmp_path / name) for name in ("one", "two"))
    assert len(one.clean) == 12
    assert torch.equal(one.clean, two.clean)
    assert torch.equal(one.condition, two.condition)
    for rank, other in (("0", {"degradation": "area"}), ("0", {"seed": 1}), ("1", {"seed": 1})):
        monkeypatch.setenv("RANK", rank)  # none of them writes
        with pytest.raises(DataError, match="of other tiles, settings or networks"):
            write_bank(build(BankConfig, values | other), Run(tiles, tmp_path / "one"))
    monkeypatch.delenv("RANK")
    with torch.autocast("cpu", torch.bfloat16):  # as in a step of a training in bf16 on a CPU
        pair = one.crops(np.random.default_rng(0), 3, 8)
    assert all(z.shape == (3, 4, 8, 8) and z.dtype == torch.float32 for z in pair)

    loop = small.LOOP | {"iterations": 1}
    more = {"bank": str(tmp_path / "one"), "batch": 2, "crop": 16, "held_out": 2, "loop": loop}
    run = Run(tiles, tmp_path / "stage2")
    fit_stage2(build(Stage2Config, small.config()["stage2"] | more), run)
    with Image.open(run.out / "pictures" / "0000001.png") as strip:
        assert strip.width == 3 * 128 + 2 * 8  # restored, sampled, decoded
        assert np.asarray(strip).std() > 1


def test_validation_tiles_of_any_size_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (tmp_path / split / split).mkdir(parents=True)
        for i in range(2):
            image = Image.fromarray(rng.integers(0, 256, (101, 103, 3), np.uint8))
            image.save(tmp_path / split / split / f"{i}.png")
    loop = small.LOOP | {"iterations": 1}
    for name, kind, fit in (
        ("stage1", Stage1Config, fit_stage1),
        ("autoencoder", AutoencoderConfig, fit_autoencoder),
    ):
        config = build(kind, small.config()[name] | {"loop": loop})
        fit(config, Run(tmp_path, tmp_path / name))
        assert (tmp_path / name / "pictures" / "0000001.png").exists()


def test_exports_come_in_small_files(tiles: Path, tmp_path: Path) -> None:
    config = small.config()["stage1"] | {"architecture": "PlainNet", "loss": "l1"}
    config |= {"model": {"width": 384, "blocks": 2}, "batch": 1, "crop": 32}
    config["loop"] = small.LOOP | {"iterations": 1}
    fit_stage1(build(Stage1Config, config), Run(tiles, tmp_path))
    sizes = [f.stat().st_size for f in (tmp_path / "restoration").glob("*.safetensors")]
    assert sum(sizes) > 16e6 > max(sizes)
    loaded = load_restoration(tmp_path / "restoration")
    assert sum(p.numel() for p in loaded.parameters()) > 4e6
    # in the place of one file, as earlier versions left it
    loaded.save_pretrained(tmp_path / "old", max_shard_size="1GB")
    for value in loaded.parameters():
        torch.nn.init.constant_(value, 7.0)
    for one_file in (False, True):
        save_part(loaded, tmp_path / "old", one_file)
        assert all(bool((v == 7).all()) for v in load_state(tmp_path / "old").values())


def test_banks_that_are_too_small(tiles: Path, tmp_path: Path) -> None:
    values = small.config()["stage2"] | {"bank": bank(tmp_path / "bank")}
    loop = small.LOOP | {"iterations": 1}
    # all four pairs of the bank held out would leave none to learn from
    config = build(Stage2Config, values | {"held_out": 16, "loop": loop})
    fit_stage2(config, Run(tiles, tmp_path / "run"))
    assert float(small.log(tmp_path / "run", "validation")[0]["loss"]) > 0
    with pytest.raises(DataError, match="16x16 are smaller than a crop of 17"):
        fit_stage2(build(Stage2Config, values | {"crop": 17}), Run(tiles, tmp_path))
    damaged = Path(bank(tmp_path / "damaged"))
    (damaged / "bank-0001.safetensors").write_bytes(b"1234")
    with pytest.raises(DataError, match=r"bank-0001\.safetensors is no shard"):
        load_bank(damaged)
    other = {k: torch.ones(4, 8, 16, 16).half() for k in ("clean", "condition")}
    save_file(other, damaged / "bank-0001.safetensors")
    with pytest.raises(DataError, match="not of the size of"):
        load_bank(damaged)
    with pytest.raises(DataError, match=r"no bank-\*"):
        fit_stage2(build(Stage2Config, values | {"bank": "none"}), Run(tiles, tmp_path))


def test_a_model_on_a_base_is_exported_and_loads(
    folder: Path,  # noqa: F811
    tiles: Path,
    tmp_path: Path,
) -> None:
    loop = small.LOOP | {"iterations": 1}
    values = {"bank": bank(tmp_path / "bank"), "base": str(folder), "batch": 2, "crop": 16}
    run = Run(tiles, tmp_path / "stage2")
    fit_stage2(build(Stage2Config, values | {"held_out": 1, "loop": loop}), run)
    place = tmp_path / "model"
    arguments = ["--stage2", run.out, "--base", folder, "--name", "small", "--out", place]
    assert main([*map(str, arguments), "--scales", "4", "--sampling", '{"steps": 1}']) == 0
    card = read_card(place)
    assert card.base == str(folder)
    assert set(card.parts) == {"restoration", "controlnet"}
    lr = (np.random.default_rng(0).random((16, 16, 3)) * 255).astype(np.uint8)
    model = from_pretrained(place)
    assert upscale_image(lr, 4, model=model, window=64, overlap=8).shape == (64, 64, 3)


def test_what_is_no_model_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--name", "x", "--out", str(tmp_path / "out")]
    assert main(common) == 2
    assert main([*common, "--stage2", str(tmp_path)]) == 2
    assert main([*common, "--stage1", str(tmp_path / "none")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
    assert not (tmp_path / "out").exists()


def test_a_run_fills_in_the_folders_of_what_it_makes() -> None:
    config = small.config() | {"distill": {"teacher": "elsewhere"}}
    whole = complete_config(config, Path("out"), None)
    assert whole["latents"]["restoration"] == "out/stage1/restoration"
    assert whole["latents"]["vae"] == "out/autoencoder/vae"
    assert whole["stage2"]["bank"] == "out/latents"
    assert whole["distill"]["teacher"] == "out/model"
    del config["stage1"]
    config["latents"]["restoration"] = "mine"
    assert complete_config(config, Path("out"), None)["latents"]["restoration"] == "mine"
    forward = complete_config(config, Path("out"), Path("old"))
    assert planned_stages(config, Path("old")) == ["distill"]
    assert forward["distill"]["teacher"] == "old"
    assert "restoration" not in forward["distill"]


def test_one_command_runs_the_papers_stages(
    folder: Path,  # noqa: F811
    tiles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The structure of `sd21.yaml`, made small by --set."""
    order = []

    def launch(stage: str, arguments: list[str]) -> int:
        order.append(stage)
        return small.launch(stage, arguments)

    monkeypatch.setattr(train.run, "launch", launch)
    # the autoencoder of the smallest base halves the size once: 64 px are 32 latents
    sets = [
        "stage1.model={embed_dim: 16, depths: [2], num_heads: [2], num_feat: 8}",
        *("stage1.batch=1", "stage1.crop=64", "latents.passes=1", "stage2.held_out=1"),
        *("stage2.batch=1", "stage2.crop=16", "export.sampling={steps: 1}"),
        *(f"{stage}.base={folder}" for stage in ("latents", "stage2")),
    ]
    for stage in ("stage1", "stage2"):
        sets += [f"{stage}.loop.{key}" for key in ("iterations=1", "validate_every=1")]
        sets += [f"{stage}.loop.precision=no"]
    arguments = ["--config", "train/configs/sd21.yaml", "--data", tiles, "--out", tmp_path / "run"]
    command = [*map(str, arguments), *(item for s in sets for item in ("--set", s))]
    monkeypatch.chdir(small.ROOT)
    assert train.run.main([*command, "--minutes", "0"]) == 0
    assert "time over in stage1" in capsys.readouterr().out
    assert train.run.main([*command, "--minutes", "5", "--limit", "4"]) == 0
    assert f"done: {tmp_path / 'run' / 'model'}" in capsys.readouterr().out
    assert order == ["stage1", "latents", "stage2"]
    assert train.run.main(command) == 0
    assert len(order) == 3  # nothing is left to do
    record = (tmp_path / "run" / "config.yaml").read_bytes()
    capsys.readouterr()
    for change in ("stage1.loop.save_every=1", "latents.restoration=elsewhere"):
        assert train.run.main([*command, "--set", change]) == 0
    record = (tmp_path / "run" / "config.yaml").read_bytes()
    assert len(order) == 3
    assert train.run.main([*command, "--set", "stage1.batch=2"]) == 2
    assert "stage1 is done, by other settings" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == record
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = [arg.replace(str(tmp_path / "run"), str(tmp_path / "moved")) for arg in command]
    assert train.run.main(moved) == 0
    (tmp_path / "moved").rename(tmp_path / "run")
    model = from_pretrained(tmp_path / "run" / "model")
    assert model.describe()["base"] == folder.name
    lr = (np.random.default_rng(0).random((16, 16, 3)) * 255).astype(np.uint8)
    assert upscale_image(lr, 4, model=model, window=64, overlap=8).std() > 1


def test_a_failing_stage_ends_the_run_with_its_code(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.run, "launch", small.launch)
    file = small.write(tmp_path / "small.yaml", small.config("stage1"))
    arguments = ["--config", str(file), "--data", str(tmp_path), "--out", str(tmp_path / "run")]
    assert train.run.main(arguments) == 1
    assert "stage1 failed" in capsys.readouterr().err.splitlines()[-1]
    assert train.run.main([*arguments, "--set", "stage1.nonsense=1"]) == 2
    assert train.run.main([*arguments, "--set", "stage1"]) == 2
    assert train.run.main([*arguments, "--set", "stgae1.batch=3"]) == 2
    assert "section stgae1 is of no stage" in capsys.readouterr().err.splitlines()[-1]
    assert train.run.main([*arguments, "--set", "stage1=3"]) == 2


def test_a_run_that_is_told_to_end_tells_its_stage(tiles: Path, tmp_path: Path) -> None:
    config = small.config("stage1")
    config["stage1"]["loop"] = small.LOOP | {"iterations": 100_000, "save_every": 100_000}
    file = small.write(tmp_path / "small.yaml", config)
    command = [sys.executable, "-m", "train", "run", "--config", str(file), "--data", str(tiles)]
    command += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=small.ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "run" / "stage1" / "log.csv").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
    assert load_checkpoint(tmp_path / "run" / "stage1") is not None


def test_a_start_without_a_second_stage_shows_before_the_first(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.run, "launch", lambda stage, arguments: pytest.fail(stage))
    file = small.write(tmp_path / "small.yaml", small.config("stage1") | {"distill": {}})
    arguments = ["--config", file, "--data", tiles, "--out", tmp_path / "run"]
    for start, said in ((SHIPPED["plain"], "has no second stage"), (tmp_path, "no model.json")):
        assert train.run.main([*map(str, arguments), "--start", str(start)]) > 0
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
