"""A model of the smallest sizes with random weights, as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel

from wsisr.models import ModelCard, save_pretrained
from wsisr.models.networks.controlnet import LatentControlNet
from wsisr.models.networks.swinir import SwinIR

PARTS = {
    "restoration": "SwinIR",
    "vae": "AutoencoderTiny",
    "unet": "UNet2DConditionModel",
    "controlnet": "LatentControlNet",
}


def small_restoration() -> SwinIR:
    return SwinIR(embed_dim=8, depths=(2,), num_heads=(2,), num_feat=(8, 8, 4, 4))


def small_vae(width: int = 8) -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 0),
        latent_channels=4,
    )


def small_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
    )


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return save_small_model(tmp_path / "model")


def save_small_model(folder: Path) -> Path:
    """A model folder of small random parts of both stages."""
    torch.manual_seed(0)
    unet = small_unet()
    controlnet = LatentControlNet.of_unet(unet)
    for module in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        torch.nn.init.normal_(module.weight, std=0.1)
    card = ModelCard(
        "small",
        PARTS,
        scales=(2, 4, 8),
        sampling={"steps": 2, "start_timestep": 400, "start_from": "condition", "fidelity": 0.25},
    )
    parts = {
        "restoration": small_restoration(),
        "vae": small_vae(),
        "unet": unet,
        "controlnet": controlnet,
    }
    save_pretrained(folder, card, parts, prompt=torch.zeros(1, 8))
    return folder
