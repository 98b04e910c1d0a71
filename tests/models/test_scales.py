"""A model with parts of their own for some scales: joined, loaded, refused."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from train.scales import main
from wsisr.cli import cli
from wsisr.engine import upscale_array
from wsisr.errors import ModelError
from wsisr.models import DualStage, from_pretrained, load_upscaler
from wsisr.models.loading import read_card


def changed(model: Path, part: str, out: Path) -> Path:
    """A copy of a model with other weights in one part."""
    copytree(model, out)
    (file,) = (out / part).glob("*.safetensors")
    state = load_file(file)
    save_file({name: value * 0.5 for name, value in state.items()}, file)
    return out


def weights(model: DualStage) -> dict[str, torch.Tensor]:
    """The networks' parameters, those of both stages."""
    assert model.second is not None
    parts = {"restoration": model.restoration, "vae": model.second.vae}
    return {f"{part}.{k}": v for part, m in parts.items() for k, v in m.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def joined(model_folder: Path, tmp_path: Path) -> Path:
    """The small model, for 2, 4 and 8, with another autoencoder for 2 and 4."""
    card = json.loads((model_folder / "model.json").read_text())
    (model_folder / "model.json").write_text(json.dumps(card | {"scales": [2, 4, 8]}))
    other = changed(model_folder, "vae", tmp_path / "other")
    out = tmp_path / "joined"
    at = [f"--at={scale}={other}" for scale in (2, 4)]
    assert main([str(model_folder), *at, "--out", str(out)]) == 0
    return out


def test_the_nearest_scale_has_its_own_parts(joined: Path, tmp_path: Path) -> None:
    first, other = (weights(from_pretrained(tmp_path / name)) for name in ("model", "other"))
    assert not same(first, other)
    for scale, wanted in ((None, first), (8, first), (5.7, first), (5.6, other), (1.1, other)):
        model = from_pretrained(joined, scale=scale)
        assert same(weights(model), wanted), scale
    hashes = {s: from_pretrained(joined, scale=s).identity["weights_sha256"] for s in (4, 8)}
    differing = {name for name in hashes[4] if hashes[4][name] != hashes[8][name]}
    assert {name.split("/")[0] for name in differing} == {"vae"}


def test_only_parts_that_differ_are_stored(joined: Path) -> None:
    assert sorted(p.name for p in (joined / "at-2-4").iterdir()) == ["vae"]
    assert read_card(joined).at == {2.0: "at-2-4", 4.0: "at-2-4"}
    facts = json.loads(CliRunner().invoke(cli, ["models", "show", str(joined), "--json"]).output)
    assert facts["parts"]["at-2-4/vae"]["sha256"] != facts["parts"]["vae"]["sha256"]


def test_upscaling_takes_those_of_its_scale(joined: Path, tmp_path: Path) -> None:
    lr = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for scale, name in ((4, "other"), (8, "model")):
        made, expected = (
            upscale_array(lr, scale, model=str(folder), tile=128, overlap=32)
            for folder in (joined, tmp_path / name)
        )
        assert np.array_equal(made, expected), scale


def test_a_lost_sub_folder_is_named(joined: Path) -> None:
    rmtree(joined / "at-2-4")
    assert isinstance(from_pretrained(joined, scale=8), DualStage)
    with pytest.raises(ModelError, match=r"at-2-4: missing; it holds the parts for 4x"):
        from_pretrained(joined, scale=4)


def test_joined_again_what_was_there_is_left_out(joined: Path, tmp_path: Path) -> None:
    again = changed(tmp_path / "model", "restoration", tmp_path / "again")
    out = tmp_path / "out"
    assert main([str(joined), f"--at=4={again}", "--out", str(out)]) == 0
    assert [p.name for p in (out / "at-4").iterdir()] == ["restoration"]
    assert not (out / "at-2-4").exists()
    assert isinstance(load_upscaler(str(out), scale=4), DualStage)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, ["--at", "3={0}"], "--at 3: not one of the scales of"),
        ({}, ["--at", "four={0}"], "give SCALE=FOLDER"),
        ({}, ["--at", "4"], "give SCALE=FOLDER"),
        ({"sampling": {"steps": 3}}, ["--at", "4={0}"], "differs from that of"),
    ],
)
def test_refused(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object],
    arguments: list[str],
    message: str,
) -> None:
    other = tmp_path / "other"
    copytree(model_folder, other)
    card = json.loads((other / "model.json").read_text())
    (other / "model.json").write_text(json.dumps(card | change))
    given = [argument.format(other) for argument in arguments]
    assert main([str(model_folder), *given, "--out", str(tmp_path / "out")]) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "at", [{"4": "../other"}, {"4": ""}, {"4": 1}, {"16": "x"}, ["4"], {"4": ".."}]
)
def test_a_card_leads_nowhere_else(joined: Path, at: object) -> None:
    card = json.loads((joined / "model.json").read_text())
    (joined / "model.json").write_text(json.dumps(card | {"at": at}))
    with pytest.raises(ModelError, match=r"model\.json: `at`"):
        from_pretrained(joined, scale=4)
