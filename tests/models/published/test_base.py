from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from click.testing import CliRunner
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.published import originals
from tests.models.published.test_conversion import swinir
from wsisr.cli import cli
from wsisr.engine.array import upscale_image
from wsisr.errors import ModelError
from wsisr.models import from_pretrained, load_upscaler
from wsisr.models.files.folder import build_parts
from wsisr.models.files.parts import fill, make_module
from wsisr.models.published import load_base
from wsisr.models.published.base import DEFAULT_BASE, HUB_FILES
from wsisr.models.published.conversion import convert
from wsisr.models.published.ldm import convert_unet, convert_vae
from wsisr.models.published.prompt import from_open_clip


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Stable Diffusion of the smallest size in its single-file layout."""
    monkeypatch.setattr(originals, "CONTEXT", 64)
    torch.manual_seed(0)
    return {
        **originals.unet("model.diffusion_model."),
        **originals.vae("first_stage_model."),
        **originals.text_encoder("cond_stage_model.model.", 64),
        "betas": torch.zeros(1000),
    }


@pytest.fixture
def single_file(original: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(original, tmp_path / "sd.safetensors")
    return tmp_path / "sd.safetensors"


def own(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.fixture
def folder(original: dict[str, Tensor], tmp_path: Path) -> Path:
    """The same as a folder in the diffusers layout, written by diffusers."""
    place = tmp_path / "sd"
    for part, cls, network in (
        ("unet", UNet2DConditionModel, convert_unet(own(original, "model.diffusion_model."))),
        ("vae", AutoencoderKL, convert_vae(own(original, "first_stage_model."))),
    ):
        module = make_module(cls, network.config)
        fill(module, network.tensors, part)
        module.save_pretrained(place / part)
    text: dict[str, Tensor] = {}
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    encoder = own(original, "cond_stage_model.model.")
    for index in (0, 1):
        block = own(encoder, f"transformer.resblocks.{index}.")
        new = f"text_model.encoder.layers.{index}"
        for kind in ("weight", "bias"):
            for name, part in zip("qkv", block[f"attn.in_proj_{kind}"].chunk(3), strict=True):
                text[f"{new}.self_attn.{name}_proj.{kind}"] = part.clone()
            text |= {f"{new}.{n}.{kind}": block[f"{o}.{kind}"] for o, n in names.items()}
            text[f"text_model.final_layer_norm.{kind}"] = encoder[f"ln_final.{kind}"]
    embeddings = "text_model.embeddings"
    text[f"{embeddings}.token_embedding.weight"] = encoder["token_embedding.weight"]
    text[f"{embeddings}.position_embedding.weight"] = encoder["positional_embedding"]
    (place / "text_encoder").mkdir()
    save_file(text, place / "text_encoder" / "model.safetensors")
    (place / "text_encoder" / "config.json").write_text('{"hidden_act": "gelu"}')
    (place / "scheduler").mkdir()
    scheduler = {"prediction_type": "epsilon"}
    (place / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return place


@pytest.fixture
def model(tmp_path: Path, original: dict[str, Tensor]) -> Path:
    """A ControlNet and a stage 1, converted; UNet and autoencoder are the base's."""
    torch.save(originals.controlnet(), tmp_path / "control.pth")
    torch.save(swinir(), tmp_path / "stage1.pth")
    convert([tmp_path / "control.pth", tmp_path / "stage1.pth"], tmp_path / "model")
    return tmp_path / "model"


def test_three_ways_to_the_base_give_the_same_pixels(
    model: Path, folder: Path, single_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, tuple(allow_patterns), local_files_only))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    # the autoencoder of the test halves the size once, so the pipeline's own sizes serve
    lr = (torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    outputs = []
    named = {str(folder): "sd", str(single_file): single_file.name, None: DEFAULT_BASE}
    for base in (str(folder), str(single_file), "some/mirror", None):
        upscaler = load_upscaler(str(model), base=base, settings={"steps": 1})
        outputs.append(upscale_image(lr, 4, model=upscaler, window=64, overlap=8))
        told = upscaler.describe()
        assert told["base"] == named.get(base, base)
        assert any(key.startswith("base/") for key in told["weights_sha256"])
    assert asked == [("some/mirror", HUB_FILES, False), (DEFAULT_BASE, HUB_FILES, True)]
    # the same weights in another memory order may round a pixel the other way
    assert all(abs(outputs[0].astype(int) - out).max() <= 1 for out in outputs[1:])
    assert outputs[0].std() > 1


def test_the_prompt_is_stored_where_a_base_is_given(
    model: Path, folder: Path, original: dict[str, Tensor], tmp_path: Path
) -> None:
    expected = from_open_clip(own(original, "cond_stage_model.model.")).embedding
    taken = load_base(str(folder), ["prompt"]).prompt
    torch.testing.assert_close(taken, expected, atol=1e-5, rtol=1e-5)
    files = [tmp_path / "control.pth", tmp_path / "stage1.pth"]
    convert(files, tmp_path / "m2", base=str(folder))
    stored = load_file(tmp_path / "m2" / "prompt" / "prompt.safetensors")["prompt"]
    torch.testing.assert_close(stored, expected, atol=1e-5, rtol=1e-5)
    (folder / "text_encoder" / "model.safetensors").unlink()
    assert from_pretrained(tmp_path / "m2").second is not None


def test_an_autoencoder_with_the_old_names_of_its_attention(folder: Path) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    before = load_base(str(folder), ["vae"]).modules["vae"].state_dict()
    old = {
        key.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn."): value.clone()
        for key, value in before.items()
    }
    assert set(old) != set(before)
    save_file(old, file)
    # a variant beside the weights is not mixed in
    save_file({"other": torch.zeros(1)}, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    after = load_base(str(folder), ["vae"]).modules["vae"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_no_hub_is_one_line_with_a_remedy(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise ConnectionError("Got: ConnectError\nan essay follows")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"base sd2-community/.*ConnectError.*give the") as error:
        from_pretrained(model, base=DEFAULT_BASE)
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="no such folder or file"):
        from_pretrained(model, base=str(tmp_path / "nowhere"))
    assert from_pretrained(model, settings={"fidelity": 1.0}).second is None


def test_a_base_that_does_not_fit(model: Path, folder: Path, single_file: Path) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text('{"prediction_type": "v_prediction"}')
    with pytest.raises(ModelError, match=r"predicts v, the model .* epsilon"):
        from_pretrained(model, base=str(folder))
    scheduler.unlink()
    (folder / "text_encoder" / "config.json").write_text('{"hidden_act": "quick_gelu"}')
    with pytest.raises(ModelError, match="not the text encoder of Stable Diffusion 2"):
        from_pretrained(model, base=str(folder))
    half = dict(list(load_file(single_file).items())[::2])
    save_file(half, single_file)
    with pytest.raises(ModelError, match=r"sd\.safetensors: .*missing"):
        from_pretrained(model, base=str(single_file))


def test_the_papers_size() -> None:
    parts = build_parts("sd21")
    millions = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in parts.items()}
    assert millions["restoration"] == pytest.approx(15.79, abs=0.005)
    assert millions["controlnet"] == pytest.approx(363.15, abs=0.05)
    assert millions["unet"] == pytest.approx(865.9, abs=0.05)
    assert len(parts["controlnet"].state_dict()) == 324
    for module in parts.values():
        module.to("meta").eval()
    image = torch.empty(1, 3, 512, 512, device="meta")
    latent = torch.empty(1, 4, 64, 64, device="meta")
    prompt = torch.empty(1, 77, 1024, device="meta")
    t = torch.empty(1, device="meta")
    with torch.inference_mode():
        assert parts["vae"].encode(image).latent_dist.mode().shape == latent.shape
        both = torch.cat((latent, latent), 1)
        skips, middle = parts["controlnet"](
            both, t, prompt, controlnet_cond=both, return_dict=False
        )
        out = parts["unet"](
            latent,
            t,
            prompt,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
        ).sample
        assert out.shape == latent.shape
        assert parts["vae"].decode(latent).sample.shape == image.shape


def test_a_configuration_is_shown_and_not_run() -> None:
    output = CliRunner().invoke(cli, ["models", "show", "sd21"]).output
    assert "unet: UNet2DConditionModel, 865.91 M parameters" in output
    with pytest.raises(ModelError, match="a description without weights"):
        load_upscaler("sd21")
