"""Models told without their weights in memory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from wsisr.errors import ModelError, OptionError, UsageError
from wsisr.models import SHIPPED, describe_upscaler, load_upscaler
from wsisr.models import devices as devices_module
from wsisr.models.devices import may_have_gpu, name_device, usual_precision


@pytest.mark.parametrize("name", ["tiny", "plain", "restore", "bicubic"])
@pytest.mark.parametrize("scale", [2, 4, 8.5])
def test_a_model_describes_itself_as_it_was_described(name: str, scale: float) -> None:
    settings = {"seed": 3}
    described = describe_upscaler(name, settings=settings, scale=scale)
    loaded = load_upscaler(name, settings=settings, scale=scale)
    assert described.facts == loaded.describe()
    assert described.stochastic == getattr(loaded, "stochastic", False) == (name == "tiny")


def test_stage_1_alone_has_no_hashes_of_stage_2() -> None:
    settings = {"fidelity": 1.0}
    described = describe_upscaler("tiny", settings=settings)
    assert described.facts == load_upscaler("tiny", settings=settings).describe()
    assert {file.partition("/")[0] for file in described.facts["weights_sha256"]} == {"restoration"}
    assert not described.stochastic


@pytest.mark.parametrize(
    ("broken", "match"),
    [
        ("vae/config.json", "part missing"),
        ("unet/diffusion_pytorch_model.safetensors", "no \\*.safetensors"),
        ("model.json", "no model.json"),
    ],
)
def test_files_that_lack_are_told(tmp_path: Path, broken: str, match: str) -> None:
    folder = Path(shutil.copytree(SHIPPED["tiny"], tmp_path / "model"))
    (folder / broken).unlink()
    with pytest.raises(ModelError, match=match):
        describe_upscaler(str(folder))


def test_settings_are_checked() -> None:
    with pytest.raises(OptionError, match="sampler nosuch"):
        describe_upscaler("tiny", settings={"sampler": "nosuch"})
    with pytest.raises(UsageError, match="unknown setting stepps"):
        describe_upscaler("tiny", settings={"stepps": 3})
    with pytest.raises(OptionError, match="no blocks to compile"):
        describe_upscaler("bicubic", settings={"compile": True})
    with pytest.raises(ModelError, match="neither a known model"):
        describe_upscaler("nosuch")


def test_the_cpus_flags_say_what_torch_says() -> None:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities:
        pytest.skip("this torch cannot tell")
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    assert usual_precision("cpu") == ("bf16" if fast else "fp32")
    assert usual_precision("cuda:1") == "bf16"
    assert usual_precision("mps") == "fp32"


@pytest.mark.parametrize("flags", ["fpu amx_bf16 vme", "avx512_bf16", "avx512f avx512_bf16x"])
def test_flags_are_whole_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : none\n")
    monkeypatch.setattr(devices_module, "CPUINFO", file)
    assert usual_precision("cpu") == ("fp32" if flags[-1] == "x" else "bf16")


@pytest.mark.skipif("sys.platform != 'linux'", reason="drivers are looked for on Linux")
def test_a_driver_in_dev_makes_torch_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "DEV", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not may_have_gpu()
    assert name_device(None) == "cpu"
    (tmp_path / "nvidiactl").touch()
    assert may_have_gpu()
    assert name_device(None) == "cuda"
    assert name_device("cpu") == "cpu"
