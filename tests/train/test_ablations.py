from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import train.run
from tests.train import small
from train.ablations import VARIANTS, configure, main
from wsisr.models import from_pretrained
from wsisr.models.networks.plainnet import PlainNet


def test_variants_differ_in_what_they_are_about_alone() -> None:
    config = small.config()
    made = {name: configure(config, v, Path("out/autoencoder")) for name, v in VARIANTS.items()}
    full, bare, other = made.values()
    assert full["latents"]["vae"] == "out/autoencoder/vae"
    assert "autoencoder" not in full
    assert full["stage2"] == bare["stage2"] == other["stage2"]
    assert full["stage2"]["loop"]["keep_every"] == 5
    assert "stage1" not in bare
    assert bare["latents"] == full["latents"] | {"restoration": ""}
    for section in ("stage1", "latents"):
        assert full[section] | {"degradation": "realesrgan"} == other[section]
    config["stage2"]["loop"]["keep_every"] = 7
    kept = configure(config, VARIANTS["realesrgan"], Path("a"))["stage2"]["loop"]["keep_every"]
    assert kept == 7


def test_the_ablations_run_in_slices_to_models_and_a_table(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.run, "launch", small.launch)
    config = small.config()
    # another run's stage 1, which is not there and must not be looked for
    config["latents"]["restoration"] = "runs/tiny/stage1/restoration"
    file = small.write(tmp_path / "small.yaml", config)
    out = tmp_path / "out"
    arguments = ["--config", file, "--data", tiles, "--out", out, "--judged", 1]
    for section in ("stage1", "autoencoder", "stage2"):
        arguments += ["--set", f"{section}.loop.iterations=2"]
    arguments += ["--set", "stage2.loop.keep_every=1"]
    command = list(map(str, arguments))
    assert main([*command, "--minutes", "0.0001"]) == 0
    assert "time over in autoencoder" in capsys.readouterr().out
    assert main([*command, "--minutes", "9", "--variants", "codeformer"]) == 0
    assert "done" in capsys.readouterr().out
    before = (out / "codeformer" / "model" / "model.json").stat().st_mtime_ns
    assert main(command) == 0
    assert "| realesrgan-2 | realesrgan | True | 2 |" in capsys.readouterr().out
    assert (out / "codeformer" / "model" / "model.json").stat().st_mtime_ns == before

    with (out / "ablations.csv").open() as table:
        rows = {row["model"]: row for row in csv.DictReader(table)}
    assert set(rows) == {"bicubic", *(f"{name}-{i}" for name in VARIANTS for i in (1, 2))}
    assert all(float(row["psnr_x4"]) > 0 for row in rows.values())
    bare = from_pretrained(out / "codeformer-without-stage1" / "model")
    assert isinstance(bare.restoration, PlainNet)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(bare.restoration(image), image)
    early = from_pretrained(out / "codeformer" / "models" / "0000001")
    late = from_pretrained(out / "codeformer" / "model")
    assert early.second is not None
    assert late.second is not None
    a, b = early.second.diffusion.state_dict(), late.second.diffusion.state_dict()
    assert any(not torch.equal(a[key], b[key]) for key in a)
