"""Light networks beside those of diffusers: the same bits, from the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from wsisr.models import SHIPPED, from_pretrained, load_upscaler
from wsisr.models.files import load_light
from wsisr.models.light import light_network
from wsisr.models.networks import ControllableDiffusion, LatentControlNet

SMALL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
    "attention_head_dim": (2, 4, 4),
}


def saved(network: Any, folder: Path) -> Path:
    """Saves a network whose weights are none of them zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape))
    network.eval().save_pretrained(folder, safe_serialization=True)
    return folder


def light(folder: Path) -> torch.nn.Module:
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return load_light(folder, name, {}, 0, None).eval()


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusion(tmp_path: Path, linear: bool, dtype: torch.dtype) -> None:
    unet = UNet2DConditionModel(**SMALL, use_linear_projection=linear)
    control = LatentControlNet.of_unet(unet)
    places = [saved(net, tmp_path / part) for net, part in ((unet, "unet"), (control, "control"))]
    pair = [light(place) for place in places]
    assert [type(net).__name__ for net in pair] == ["LightUNet", "LightControlNet"]
    prompt = torch.randn(7, SMALL["cross_attention_dim"])
    z, condition = torch.randn(2, 2, 4, 16, 24).unbind()
    steps = (249, torch.tensor([3, 999]))
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        for step in steps:
            for layout in (torch.contiguous_format, torch.channels_last):
                made = [
                    ControllableDiffusion(*nets, prompt)(
                        z.to(memory_format=layout), step, condition.to(memory_format=layout)
                    )
                    for nets in ((unet, control), pair)
                ]
                assert made[0].std() > 0
                assert torch.equal(*made)


def test_autoencoder(tmp_path: Path) -> None:
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 2, 1),
        num_decoder_blocks=(1, 2, 1, 1),
    )
    alike: Any = light(saved(vae, tmp_path))
    image = torch.rand(2, 3, 64, 40) * 2 - 1
    with torch.inference_mode():
        latents = vae.encode(image).latents
        assert torch.equal(alike.encode(image).latents, latents)
        assert torch.equal(alike.decode(latents).sample, vae.decode(latents).sample)


@pytest.mark.parametrize("scale", [2, 8])
def test_the_shipped_models_weights(scale: int) -> None:
    plain, small = from_pretrained(SHIPPED["tiny"], scale=scale), load_upscaler("tiny", scale=scale)
    assert plain.describe() == small.describe()
    kinds = {type(module).__module__.partition(".")[0] for module in small.modules()}
    assert kinds == {"wsisr", "torch"}
    weights, others = plain.state_dict(), small.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("upcast_attention", True),
        ("num_attention_heads", 4),
        ("mid_block_scale_factor", 2),
        ("resnet_time_scale_shift", "scale_shift"),
        ("class_embed_type", "timestep"),
        ("down_block_types", ["AttnDownBlock2D"] * 3),
        ("norm_num_groups", "8"),
        ("norm_num_groups", 7),
    ],
)
def test_what_they_cannot_do_is_left_to_diffusers(setting: str, value: Any) -> None:
    assert light_network("UNet2DConditionModel", SMALL | {"use_linear_projection": True})
    config = SMALL | {"use_linear_projection": True, setting: value}
    assert light_network("UNet2DConditionModel", config) is None
    assert light_network("SwinIR", {}) is None
    assert light_network("PlainNet", {}) is None
