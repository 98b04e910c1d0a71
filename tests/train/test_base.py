"""Stage 2 on a pretrained base: the paper's training, at the smallest size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.models.published.test_base import folder, original  # noqa: F401  (fixtures)
from train.config import build
from train.loop.command import Run
from train.stages.stage2 import Stage2Config, fit, make_model
from wsisr.errors import ModelError
from wsisr.models.published import load_base
from wsisr.models.published.base import DEFAULT_BASE

CONFIGS = Path(__file__).resolve().parents[2] / "train" / "configs"


def test_only_the_controlnet_learns_on_a_base(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / "bank").mkdir()
    pairs = {k: torch.randn(4, 4, 16, 16).half() for k in ("clean", "condition")}
    save_file(pairs, tmp_path / "bank" / "bank-0000.safetensors")
    values = {"bank": str(tmp_path / "bank"), "base": str(folder), "batch": 2, "crop": 16}
    loop = {"iterations": 2, "learning_rate": 1e-4, "validate_every": 1}
    config = build(Stage2Config, values | {"held_out": 1, "loop": loop})
    before = make_model(config)
    base = load_base(str(folder), ("unet", "prompt"))
    assert base.prompt is not None
    assert torch.equal(before.prompt, base.prompt)
    assert float(before.prompt.abs().max()) > 0
    channels = before.unet.config.in_channels
    assert torch.equal(before.controlnet.conv_in.weight[:, :channels], before.unet.conv_in.weight)
    assert float(before.controlnet.conv_in.weight[:, channels:].detach().abs().max()) == 0
    for conv in (*before.controlnet.controlnet_down_blocks, before.controlnet.controlnet_mid_block):
        assert float(conv.weight.detach().abs().max()) == 0

    after = fit(config, Run(tmp_path, tmp_path / "run"))
    for key, value in base.modules["unet"].state_dict().items():
        assert torch.equal(after.unet.state_dict()[key], value), key
    start, end = before.controlnet.state_dict(), after.controlnet.state_dict()
    # zero convolutions let no gradient through at first; after one step all of it learns
    assert any(not torch.equal(start[key], end[key]) for key in start if "controlnet_" in key)
    assert not torch.equal(start["conv_in.weight"], end["conv_in.weight"])
    assert not (tmp_path / "run" / "unet").exists()
    stored = load_file(tmp_path / "run" / "prompt.safetensors")["prompt"]
    assert torch.equal(stored, base.prompt)


def test_a_base_that_predicts_v_is_refused(folder: Path) -> None:  # noqa: F811
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(ModelError, match="predicts v, training needs one that predicts epsilon"):
        make_model(Stage2Config(base=str(folder)))


def test_the_papers_settings() -> None:
    sections = yaml.safe_load((CONFIGS / "sd21.yaml").read_text())
    config = build(Stage2Config, sections["stage2"])
    assert config.base == sections["latents"]["base"] == DEFAULT_BASE
    assert (config.batch, config.loop.iterations) == (16, 205_000)
    assert config.loop.learning_rate == 1e-4
