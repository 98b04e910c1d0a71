from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from tests.models.published import originals
from tests.models.published.originals import CONTEXT, Graph
from wsisr.cli import cli
from wsisr.errors import ExistsError, ModelError
from wsisr.models import from_pretrained
from wsisr.models.files.card import read_card
from wsisr.models.files.checkpoint import read_checkpoint
from wsisr.models.files.parts import fill, make_module, network_class
from wsisr.models.networks.swinir import SwinIR, relative_position_index, shifted_window_mask
from wsisr.models.published.conversion import convert, convert_swinir
from wsisr.models.published.ldm import convert_controlnet, convert_unet, convert_vae
from wsisr.models.published.prompt import blank_tokens, from_open_clip, from_transformers
from wsisr.models.sampling import SAMPLERS, make_schedule

TOLERANCE = 2e-5
"""Twice what float32 rounds to here at the largest values, which are about 10."""


def built(part: str, class_name: str, network: object) -> torch.nn.Module:
    module = make_module(network_class(part, class_name), network.config)
    fill(module, network.tensors, part)
    return module.eval()


def swinir(prefix: str = "") -> dict[str, Tensor]:
    """A small stage 1 as published: with its two kinds of buffers."""
    model = SwinIR(embed_dim=12, depths=(2, 2), num_heads=(2, 2), num_feat=8)
    tensors = {key: torch.randn_like(value) * 0.1 for key, value in model.state_dict().items()}
    for group in range(2):
        for block in range(2):
            name = f"layers.{group}.residual_group.blocks.{block}"
            index = relative_position_index(8)
            tensors[f"{name}.attn.relative_position_index"] = index
            if block % 2:
                tensors[f"{name}.attn_mask"] = shifted_window_mask(16, 16, 8, 4)
    return {prefix + key: value for key, value in tensors.items()}


def full() -> dict[str, Tensor]:
    """A full checkpoint as DiffBIR v1 lays it out, of the smallest sizes."""
    torch.manual_seed(0)
    tensors = {
        **originals.unet("model.diffusion_model."),
        **originals.controlnet("control_model."),
        **originals.vae("first_stage_model."),
        **originals.text_encoder("cond_stage_model.model.", 64),
        **swinir("preprocess_model."),
        "alphas_cumprod": make_schedule().alphas_cumprod.float(),
        "betas": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9999),
        "first_stage_model.loss.logvar": torch.tensor(0.0),
    }
    for key in [k for k in tensors if k.startswith("first_stage_model.")]:
        name = key.removeprefix("first_stage_model.")
        if name.startswith(("encoder.", "quant_conv.")):
            tensors[f"cond_encoder.{name}"] = tensors[key].clone()
    return tensors


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # the text encoder's width is the context's; heads have 64 channels, so 64 is the smallest
    monkeypatch.setattr(originals, "CONTEXT", 64)
    file = tmp_path / "full.ckpt"
    torch.save({"state_dict": full(), "global_step": 7}, file)
    return file


def test_a_unet_and_its_controlnet_compute_what_the_originals_do() -> None:
    torch.manual_seed(0)
    unet, control = originals.unet(), originals.controlnet()
    z, condition = torch.randn(2, 4, 16, 8), torch.randn(2, 4, 16, 8)
    t, context = torch.tensor([17, 803]), torch.randn(2, 5, CONTEXT)
    expected_control = Graph(control).control(torch.cat((z, condition), 1), t, context)
    expected = Graph(unet).unet(z, t, context, expected_control)
    net = built("controlnet", "LatentControlNet", convert_controlnet(control))
    model = built("unet", "UNet2DConditionModel", convert_unet(unet))
    both = torch.cat((z, condition), 1)
    with torch.inference_mode():
        skips, middle = net(both, t, context, controlnet_cond=both, return_dict=False)
        out = model(
            z,
            t,
            context,
            down_block_additional_residuals=skips,
            mid_block_additional_residual=middle,
            return_dict=False,
        )[0]
        alone = model(z, t, context, return_dict=False)[0]
    for ours, theirs in zip(
        (*skips, middle), (*expected_control[0], expected_control[1]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(out, expected, atol=TOLERANCE, rtol=TOLERANCE)
    without = Graph(unet).unet(z, t, context)
    torch.testing.assert_close(alone, without, atol=TOLERANCE, rtol=TOLERANCE)
    assert (out - alone).abs().mean() > 0.01


def test_an_autoencoder_computes_what_the_original_does() -> None:
    torch.manual_seed(0)
    tensors = originals.vae()
    model = built("vae", "AutoencoderKL", convert_vae(tensors))
    image, z = torch.rand(1, 3, 32, 16), torch.randn(1, 4, 8, 4)
    with torch.inference_mode():
        latents, decoded = model.encode(image).latent_dist.mode(), model.decode(z).sample
    expected = Graph(tensors).vae_encode(image)
    torch.testing.assert_close(latents, expected, atol=TOLERANCE, rtol=TOLERANCE)
    decoded_there = Graph(tensors).vae_decode(z)
    torch.testing.assert_close(decoded, decoded_there, atol=TOLERANCE, rtol=TOLERANCE)
    assert model.config.scaling_factor == 0.18215


def test_stage_1_keeps_its_weights_and_sizes() -> None:
    tensors = swinir()
    network = convert_swinir(tensors)
    assert network.config["embed_dim"] == 12
    assert network.config["depths"] == (2, 2)
    assert network.config["num_heads"] == (2, 2)
    assert network.config["num_feat"] == (8,) * 4
    assert len(tensors) - len(network.tensors) == 6
    wrong = dict(tensors)
    key = "layers.0.residual_group.blocks.1.attn_mask"
    wrong[key] = torch.zeros_like(wrong[key])
    with pytest.raises(ModelError, match="attn_mask is not that of"):
        convert_swinir(wrong)
    with pytest.raises(ModelError, match="pixel-unshuffle"):
        convert_swinir({"conv_first.weight": torch.zeros(1)})


def plain_open_clip(tensors: dict[str, Tensor], tokens: Tensor, layers: int) -> Tensor:
    """OpenCLIP's text half, written out with one head of 64 channels."""
    x = tensors["token_embedding.weight"][tokens] + tensors["positional_embedding"]
    mask = torch.full((len(tokens), len(tokens)), -math.inf).triu(1)
    for index in range(layers):
        block = f"transformer.resblocks.{index}"
        graph = Graph({k.removeprefix(f"{block}."): v for k, v in tensors.items()})
        qkv = F.linear(
            graph.layer("ln_1", x), graph.t["attn.in_proj_weight"], graph.t["attn.in_proj_bias"]
        )
        q, k, v = qkv.chunk(3, -1)
        x = x + graph.linear("attn.out_proj", (q @ k.T / 8 + mask).softmax(-1) @ v)
        x = x + graph.linear("mlp.c_proj", F.gelu(graph.linear("mlp.c_fc", graph.layer("ln_2", x))))
    return Graph(tensors).layer("ln_final", x)


def test_the_blank_prompt_is_the_penultimate_layer_of_start_end_and_zeros() -> None:
    torch.manual_seed(0)
    tensors = originals.text_encoder(width=64)
    blank = from_open_clip(tensors)
    expected = plain_open_clip(tensors, torch.tensor([48, 49, 0, 0, 0, 0, 0]), 2)
    torch.testing.assert_close(blank.embedding, expected, atol=5e-6, rtol=5e-6)
    assert blank_tokens(49408, 77)[:3].tolist() == [49406, 49407, 0]
    assert set(blank.used) | set(blank.unused) == set(tensors)
    assert any("resblocks.2." in key for key in blank.unused)


def test_the_blank_prompt_of_transformers_own_encoder() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=7,
        hidden_act="gelu",
        bos_token_id=48,
        eos_token_id=49,
        pad_token_id=0,
    )
    model = transformers.CLIPTextModel(config).eval()
    with torch.inference_mode():
        expected = model(blank_tokens(50, 7)[None]).last_hidden_state[0]
    state = {
        f"text_model.{key.removeprefix('text_model.')}": v for key, v in model.state_dict().items()
    }
    blank = from_transformers({k: v for k, v in state.items() if "position_ids" not in k})
    torch.testing.assert_close(blank.embedding, expected, atol=5e-6, rtol=5e-6)


def test_a_full_checkpoint_becomes_a_model_that_runs(checkpoint: Path, tmp_path: Path) -> None:
    tensors = read_checkpoint(checkpoint).tensors
    out = tmp_path / "model"
    result = CliRunner().invoke(cli, ["models", "convert", str(checkpoint), str(out)])
    assert result.exception is None, result.output
    report = json.loads((out / "conversion.json").read_text())
    unused = [key for keys in report["unused"].values() for key in keys]
    assert sorted([*report["used"], *unused]) == sorted([*tensors, "global_step"])
    model = from_pretrained(out, settings={"steps": 1})
    assert model.second is not None
    assert model.second.schedule.prediction == "epsilon"
    z, t, c = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 4, 8, 8)
    strip = lambda prefix: {  # noqa: E731
        k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)
    }
    prompt = plain_open_clip(strip("cond_stage_model.model."), blank_tokens(50, 7), 2)[None]
    control = Graph(strip("control_model.")).control(torch.cat((z, c), 1), t, prompt)
    expected = Graph(strip("model.diffusion_model.")).unet(z, t, prompt, control)
    with torch.inference_mode():
        ours = model.second.diffusion(z, t, c)
    torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("half the keys", "missing"),
        ("one key", "1 of .* weights missing"),
        ("stranger", "1 keys have no place.*stranger"),
        ("nan", "not finite"),
        ("hint", "of another family"),
        ("encoder", "differs from the autoencoder's in 1 weights"),
        ("schedule", "is not Stable Diffusion's"),
        ("shape", "has shape"),
        ("place", "has no place in this family"),
    ],
)
def test_what_does_not_add_up_is_refused(
    checkpoint: Path, tmp_path: Path, change: str, message: str
) -> None:
    tensors = dict(read_checkpoint(checkpoint).tensors)
    if change == "half the keys":
        tensors = dict(list(tensors.items())[::2])
    elif change == "one key":
        del tensors["control_model.middle_block.2.out_layers.3.bias"]
    elif change == "stranger":
        tensors["stranger.weight"] = torch.zeros(1)
    elif change == "nan":
        tensors["control_model.zero_convs.0.0.bias"][0] = math.nan
    elif change == "hint":
        tensors["control_model.input_hint_block.0.weight"] = torch.zeros(1)
    elif change == "encoder":
        tensors["cond_encoder.encoder.conv_in.bias"] = torch.ones(64)
    elif change == "schedule":
        tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    elif change == "shape":
        tensors["first_stage_model.decoder.conv_out.bias"] = torch.zeros(5)
    elif change == "place":
        tensors["model.diffusion_model.label_emb.weight"] = torch.zeros(1)
    file, out = tmp_path / "changed.safetensors", tmp_path / "out"
    save_file({k: v.clone() for k, v in tensors.items()}, file)
    with pytest.raises(ModelError, match=message) as raised:
        convert([file], out)
    assert "changed.safetensors" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not out.exists()


def test_v_prediction_with_zero_snr_is_recorded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    control, stage1 = tmp_path / "v2.1.pth", tmp_path / "swinir.ckpt"
    torch.save(originals.controlnet(), control)
    torch.save({"state_dict": {f"module.{k}": v for k, v in swinir().items()}}, stage1)
    args = ["models", "convert", str(control), str(stage1), str(tmp_path / "m")]
    result = CliRunner().invoke(cli, [*args, "--prediction", "v", "--zero-snr"])
    assert result.exception is None, result.output
    assert "unet, vae, the blank prompt: in no checkpoint" in result.output
    card = read_card(tmp_path / "m")
    assert card.schedule == {"prediction": "v", "zero_terminal_snr": True}
    assert make_schedule(**card.schedule).alphas_cumprod[-1] == 0
    assert set(card.parts) == {"restoration", "controlnet"}
    with pytest.raises(ExistsError, match="overwrite"):
        convert([control], tmp_path / "m")
    with pytest.raises(ModelError, match="another of the checkpoints"):
        convert([control, control], tmp_path / "twice")


@pytest.mark.parametrize("steps", [[999], [999, 500, 100, 0]])
@pytest.mark.parametrize("sampler", ["spaced-ddpm", "ddim", "dpm-solver++"])
def test_v_prediction_finds_the_image_from_pure_noise(sampler: str, steps: list[int]) -> None:
    torch.manual_seed(0)
    schedule = make_schedule(prediction="v", zero_terminal_snr=True)
    x0, start = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)

    def denoise(z: Tensor, t: int) -> Tensor:
        a = float(schedule.alphas_cumprod[t])
        noise = (z - a**0.5 * x0) / (1 - a) ** 0.5
        return schedule.epsilon(a**0.5 * noise - (1 - a) ** 0.5 * x0, z, t)

    out = SAMPLERS[sampler](denoise, start, steps, schedule, lambda step: start)
    # a leap from the last timestep divides by what stands for no signal, 1e-4, and rounding with it
    tolerance = 5e-3 if len(steps) == 1 else 1e-6
    torch.testing.assert_close(out, x0, atol=tolerance, rtol=tolerance)


def test_a_schedule_in_the_checkpoint_decides(checkpoint: Path, tmp_path: Path) -> None:
    tensors = dict(read_checkpoint(checkpoint).tensors)
    tensors["alphas_cumprod"] = make_schedule(zero_terminal_snr=True).alphas_cumprod.float()
    file = tmp_path / "zero.pth"
    torch.save(tensors, file)
    report = convert([file], tmp_path / "out", prediction="v")
    assert read_card(tmp_path / "out").schedule["zero_terminal_snr"] is True
    assert any("by the checkpoint's schedule" in remark for remark in report.remarks)


def test_stage_1_alone_restores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = swinir()
    file = tmp_path / "stage1.safetensors"
    save_file(tensors, file)
    convert([file], tmp_path / "m", half=True)
    model = from_pretrained(tmp_path / "m")
    assert model.settings.fidelity == 1
    weight = model.restoration.conv_last.weight
    torch.testing.assert_close(weight.contiguous(), tensors["conv_last.weight"].half().float())


class Code:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w')",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "garbage", "empty", "cut", "list"])
def test_what_is_no_checkpoint_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    sign, file = tmp_path / "ran", tmp_path / "model.pth"
    content = {"weight": torch.zeros(2), "code": Code(sign)}
    if kind in ("zip", "legacy"):
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(content))
    elif kind == "cut":
        torch.save({"weight": torch.zeros(999)}, file)
        file.write_bytes(file.read_bytes()[:1000])
    elif kind == "list":
        torch.save([1, 2], file)
    else:
        file.write_bytes(b"" if kind == "empty" else b"these are no weights")
    with pytest.raises(ModelError, match=r"model\.pth: (refused|holds a list)") as raised:
        convert([file], tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not sign.exists()
    if kind in ("zip", "legacy", "pickle"):
        with file.open("rb") as handle:  # the trap works: loaded carelessly, it does run
            torch.load(handle, weights_only=False) if kind != "pickle" else pickle.load(handle)
        assert sign.exists()


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ModelError, match="not a checkpoint"):
        read_checkpoint(tmp_path / "a.txt")
    save_file({"body.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="none of its 1 keys is of this family"):
        convert([tmp_path / "other.safetensors"], tmp_path / "out")
