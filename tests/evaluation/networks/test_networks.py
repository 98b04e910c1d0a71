"""Networks of learned measures against independent computations, with small random weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from wsisr.errors import ModelError, OutputError
from wsisr.evaluation.measures import clip_iqa
from wsisr.evaluation.networks import clip, vit
from wsisr.evaluation.networks.states import load_state


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


def randomized(module: nn.Module) -> nn.Module:
    """Every tensor away from its usual start, so that none can be left out unnoticed."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if "running_var" in name else -0.2
            tensor.copy_(torch.rand(tensor.shape) * (1.5 if "running_var" in name else 0.4) + low)
    return module.eval()


def small_clip() -> clip.Clip:
    model = clip.Clip(
        image_width=8, image_blocks=(2, 1), text_width=64, text_blocks=2, outputs=24,
        vocabulary=clip.END + 1, places=50,
    )  # fmt: skip
    randomized(model)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    return model


def naive_image_tower(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published description, step by step, on plain tensors."""

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1, padding: int = 0) -> Tensor:
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=padding)
        mean, var = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
        scale = state[f"{bn}.weight"] / (var + 1e-5).sqrt()
        return y * scale[:, None, None] + (state[f"{bn}.bias"] - mean * scale)[:, None, None]

    x = conv_bn(x, "conv1", "bn1", 2, 1).clamp(min=0)
    x = conv_bn(x, "conv2", "bn2", 1, 1).clamp(min=0)
    x = conv_bn(x, "conv3", "bn3", 1, 1).clamp(min=0)
    x = F.avg_pool2d(x, 2)
    for layer, blocks, stride in (("layer1", 2, 1), ("layer2", 1, 2)):
        for block in range(blocks):
            p = f"{layer}.{block}"
            y = conv_bn(x, f"{p}.conv1", f"{p}.bn1").clamp(min=0)
            y = conv_bn(y, f"{p}.conv2", f"{p}.bn2", 1, 1).clamp(min=0)
            if block == 0 and stride == 2:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            y = conv_bn(y, f"{p}.conv3", f"{p}.bn3")
            if block == 0:
                x = conv_bn(x, f"{p}.downsample.0", f"{p}.downsample.1")
            x = (x + y).clamp(min=0)
    tokens = x.flatten(2).permute(2, 0, 1)
    tokens = torch.cat([tokens.mean(dim=0, keepdim=True), tokens])
    names = ("q_proj", "k_proj", "v_proj")
    width = tokens.shape[-1]
    pooled, _ = F.multi_head_attention_forward(
        tokens[:1], tokens, tokens, width, width // 64, None,
        torch.cat([state[f"attnpool.{name}.bias"] for name in names]), None, None, False, 0.0,
        state["attnpool.c_proj.weight"], state["attnpool.c_proj.bias"], training=False,
        use_separate_proj_weight=True,
        q_proj_weight=state["attnpool.q_proj.weight"],
        k_proj_weight=state["attnpool.k_proj.weight"],
        v_proj_weight=state["attnpool.v_proj.weight"],
    )  # fmt: skip
    return pooled[0]


def test_clip_image_tower_equals_a_step_by_step_computation() -> None:
    model = small_clip()
    x = torch.rand(2, 3, 64, 96)
    state = {k.removeprefix("visual."): v for k, v in model.state_dict().items() if "visual." in k}
    expected = naive_image_tower(state, x)
    torch.testing.assert_close(model.visual(x), expected, rtol=1e-4, atol=1e-4)
    norms = model.image_features(x).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(2))


def test_clip_text_tower_equals_transformers() -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=clip.END + 1, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=1, projection_dim=24, eos_token_id=clip.END, bos_token_id=clip.START,
    )  # fmt: skip
    reference = randomized(CLIPTextModelWithProjection(config))
    theirs = reference.state_dict()
    p = "text_model." if "text_model.final_layer_norm.weight" in theirs else ""
    ours = small_clip()
    state = ours.state_dict()
    state["token_embedding.weight"] = theirs[f"{p}embeddings.token_embedding.weight"]
    state["positional_embedding"] = theirs[f"{p}embeddings.position_embedding.weight"]
    state["text_projection"] = theirs["text_projection.weight"].T
    for kind in ("weight", "bias"):
        state[f"ln_final.{kind}"] = theirs[f"{p}final_layer_norm.{kind}"]
        for n in range(2):
            a, b = f"transformer.resblocks.{n}", f"{p}encoder.layers.{n}"
            state[f"{a}.attn.in_proj_{kind}"] = torch.cat(
                [theirs[f"{b}.self_attn.{q}_proj.{kind}"] for q in "qkv"]
            )
            for own, other in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                state[f"{a}.{own}.{kind}"] = theirs[f"{b}.{other}.{kind}"]
    ours.load_state_dict(state)
    words = torch.tensor([[clip.START, *text, clip.END] for text in clip_iqa.WORDS])
    padded = F.pad(words, (0, 77 - words.shape[1]), value=0)
    with torch.no_grad():
        expected = F.normalize(reference(input_ids=padded).text_embeds, dim=-1)
        found = clip_iqa.prompt_features(ours)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_clip_is_rebuilt_from_its_state_alone(tmp_path: Path) -> None:
    model = small_clip()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")
    again = clip_iqa.load_clip(tmp_path / "a.pt")
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.image_features(x), model.image_features(x))
    state = model.state_dict()
    del state["visual.layer2.0.conv1.weight"]
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"1 of \d+ weights missing, the first is visual\.layer2"):
        clip_iqa.load_clip(tmp_path / "b.safetensors")


def test_tensors_are_read_from_torchscript_without_its_code(tmp_path: Path) -> None:
    inner = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).half()
    torch.jit.save(torch.jit.script(inner), str(tmp_path / "a.pt"))
    state = load_state(tmp_path / "a.pt")
    for name, value in inner.state_dict().items():
        assert torch.equal(state[name], value.float() if value.is_floating_point() else value)


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (__import__("os").system, ("touch /tmp/never",))


def test_pickled_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Attack()))
    torch.save({"w": Attack()}, tmp_path / "b.pth")
    (tmp_path / "c.safetensors").write_bytes(b"no")
    for name in ("a.pth", "b.pth", "c.safetensors"):
        with pytest.raises(ModelError, match=name):
            load_state(tmp_path / name)


def test_learnt_prompts_are_written_and_read(tmp_path: Path) -> None:
    model = small_clip()
    context = torch.randn(1, 16, 64, requires_grad=True)
    features = clip_iqa.prompt_features(model, context)
    features[0].sum().backward()
    assert context.grad is not None
    assert context.grad.abs().max() > 0
    prompts = clip_iqa.Prompts(features, context, "boxblur", "abc", {"epochs": "3"})
    clip_iqa.save_prompts(tmp_path / "p.safetensors", prompts)
    assert [path.name for path in tmp_path.glob("p.*")] == ["p.safetensors"]
    read = clip_iqa.load_prompts(tmp_path / "p.safetensors", "abc")
    assert torch.equal(read.text_features, features.detach())
    assert read.context is not None
    assert torch.equal(clip_iqa.prompt_features(model, read.context), features)
    assert (read.kind, dict(read.notes)) == ("boxblur", {"epochs": "3"})
    with pytest.raises(ModelError, match="other CLIP weights"):
        clip_iqa.load_prompts(tmp_path / "p.safetensors", "abd")
    save_file({"x": torch.zeros(1)}, tmp_path / "q.safetensors")
    with pytest.raises(ModelError, match="no learnt prompts"):
        clip_iqa.load_prompts(tmp_path / "q.safetensors")


def test_score_is_the_softmax_of_scaled_cosines() -> None:
    image = F.normalize(torch.tensor([[1.0, 0.2], [0.0, 1.0]]), dim=-1)
    text = torch.eye(2)
    found = clip_iqa.score(image, text, torch.tensor(np.log(10.0)))
    difference = 10 * (image[:, 0] - image[:, 1])
    torch.testing.assert_close(found, 1 / (1 + torch.exp(-difference)), rtol=1e-6, atol=1e-7)


def test_timm_transformer_equals_transformers() -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=4, image_size=64,
        patch_size=16, layerscale_value=1e-5, layer_norm_eps=1e-6,
    )  # fmt: skip
    reference = randomized(Dinov2Model(config))
    theirs = reference.state_dict()
    state = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
        "head.weight": torch.zeros(10, 128),
        "head.bias": torch.zeros(10),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = theirs[f"embeddings.patch_embeddings.projection.{kind}"]
        state[f"norm.{kind}"] = theirs[f"layernorm.{kind}"]
    for n in range(2):
        a = f"encoder.layer.{n}"
        b = f"blocks.{n}"
        for kind in ("weight", "bias"):
            state[f"{b}.attn.qkv.{kind}"] = torch.cat(
                [theirs[f"{a}.attention.{q}_proj.{kind}"] for q in "qkv"]
            )
            state[f"{b}.attn.proj.{kind}"] = theirs[f"{a}.attention.o_proj.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{b}.{name}.{kind}"] = theirs[f"{a}.{name}.{kind}"]
        for number in (1, 2):
            state[f"{b}.ls{number}.gamma"] = theirs[f"{a}.layer_scale{number}.lambda1"]
    network = vit.from_timm(state, "random")
    assert network.side == 64
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(x).last_hidden_state[:, 0]
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    del state["blocks.1.ls2.gamma"]
    with pytest.raises(ModelError, match=r"missing, the first is blocks.1.ls2.gamma"):
        vit.from_timm(state, "random")


def test_clip_transformer_equals_transformers() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=2,
        image_size=64, patch_size=32, projection_dim=48,
    )  # fmt: skip
    reference = randomized(CLIPVisionModelWithProjection(config))
    state = reference.state_dict()
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    state["text_model.final_layer_norm.weight"] = torch.zeros(3)
    network = vit.from_clip(state, "random")
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference(x).image_embeds
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_the_published_sizes_come_out() -> None:
    with torch.device("meta"):
        networks = {
            "CLIP RN50": (clip.Clip(), 102_007_137),
            "UNI": (vit.VisionTransformer(1024, 4096, 24, 16, 197, scaled=True), 303_350_784),
            "PLIP's image tower": (
                vit.VisionTransformer(768, 3072, 12, 32, 50, clip=True, outputs=512),
                87_849_216,
            ),
        }
    for name, (network, parameters) in networks.items():
        assert sum(p.numel() for p in network.parameters()) == parameters, name


def test_prompts_are_the_old_or_the_new_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "prompts.safetensors"
    clip_iqa.save_prompts(place, clip_iqa.Prompts(torch.ones(2, 4)))
    old = place.read_bytes()

    def cut_short(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(clip_iqa, "save_file", cut_short)
    with pytest.raises(OutputError, match=r"prompts\.safetensors cannot be written: No space left"):
        clip_iqa.save_prompts(place, clip_iqa.Prompts(torch.zeros(2, 4)))
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.safetensors"]
    assert place.read_bytes() == old
