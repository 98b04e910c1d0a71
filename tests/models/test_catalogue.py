from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsisr.cli import cli
from wsisr.errors import ModelError
from wsisr.models import SHIPPED, from_pretrained
from wsisr.models.catalogue import as_lines, shipped_models, summarise


def test_the_shipped_model_is_listed() -> None:
    names = {model.name: model for model in shipped_models()}
    assert set(names) == set(SHIPPED)
    result = CliRunner().invoke(cli, ["models", "list"])
    assert "tiny" in result.output
    assert "MiB" in result.output
    facts = json.loads(CliRunner().invoke(cli, ["models", "list", "--json"]).output)
    assert facts["tiny"]["scales"] == [2, 4, 8]


def test_parameters_and_hashes_are_those_of_the_loaded_model(model_folder: Path) -> None:
    model = summarise(str(model_folder))
    loaded = from_pretrained(model_folder)
    assert loaded.second is not None
    networks = (loaded.restoration, loaded.second.vae, loaded.second.diffusion)
    expected = sum(t.numel() for network in networks for t in network.state_dict().values())
    assert model.parameters == expected + loaded.second.diffusion.prompt.numel()
    hashes = {f"{part}/{f}": h for part, s in model.parts.items() for f, h in s.sha256.items()}
    assert hashes == loaded.identity["weights_sha256"]
    file = model_folder / "vae" / "diffusion_pytorch_model.safetensors"
    assert hashes[f"vae/{file.name}"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_shown_as_text_and_json(model_folder: Path) -> None:
    (model_folder / "README.md").write_text("# Model card: small\n")
    text = CliRunner().invoke(cli, ["models", "show", str(model_folder)]).output
    assert "controlnet: LatentControlNet" in text
    assert "start_timestep 400" in text
    assert "# Model card: small" in text
    facts = json.loads(CliRunner().invoke(cli, ["models", "show", "tiny", "--json"]).output)
    assert facts["parts"]["restoration"]["cls"] == "PlainNet"
    assert all(isinstance(line, str) for line in as_lines(summarise("tiny")))


def test_a_broken_part_is_named(model_folder: Path) -> None:
    (model_folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"unet.*not a readable safetensors"):
        summarise(str(model_folder))
    with pytest.raises(ModelError, match="neither a known model"):
        summarise("nonsense")
