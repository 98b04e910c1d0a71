"""Trains the small autoencoder of histology: L1, gradients, texture, then a patch adversary.

    python -m train autoencoder --config train/configs/tiny.yaml --data tiles --out runs/ae

It is trained on high-resolution crops and, in equal measure, on blurred ones (low resolution
resized back), since stage 2 encodes restored images too.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, CountOrZero, Fraction, Integer, Number
from train.data import (
    TileSet,
    batch_rng,
    crop_to_multiple,
    random_crops,
    to_tensor,
    upsample,
)
from train.loop import LoopConfig, Losses, Run, construct, run_stage, save_part, train
from train.losses import (
    PatchDiscriminator,
    gradient_l1,
    hinge_discriminator,
    hinge_generator,
    psnr,
    texture_l1,
)
from wsisr.models.networks import channels_last

BLOCK = 8
"""Pixels of the image along one side of a latent."""
DISCRIMINATOR_LEAD = 100
"""Iterations the discriminator learns before it is heard."""
PICTURES = 4
"""Number of validation tiles that are shown."""


@dataclass(frozen=True, config=STRICT_KEYS)
class AutoencoderConfig:
    """Section `autoencoder` of a config.

    Attributes:
        model: arguments of diffusers' `AutoencoderTiny`.
        batch: crops an iteration and process.
        crop: side of a crop in px.
        blurred: probability that a crop is a blurred one.
        gradient: weight of `gradient_l1` beside L1.
        texture: weight of `texture_l1` beside L1.
        adversarial: weight of the discriminator's hinge loss beside L1.
        adversarial_from: iteration at which the discriminator is heard.
        latent: weight of the pull of latents towards unit scale.
        loop: see `LoopConfig`.
    """

    model: dict[str, Any] = field(default_factory=dict)
    batch: Count = 8
    crop: Annotated[Integer, Field(gt=0, multiple_of=BLOCK)] = 128
    blurred: Fraction = 0.25
    gradient: Number = 1.0
    texture: Number = 0.5
    adversarial: Number = 0.02
    adversarial_from: CountOrZero = 10**9
    latent: Number = 1e-4
    loop: LoopConfig = field(default_factory=LoopConfig)


def make_batch(config: AutoencoderConfig, tiles: TileSet, iteration: int) -> Tensor:
    """Makes a batch, (B, 3, crop, crop) in [-1, 1]."""
    rng = batch_rng(config.loop.seed, iteration)
    hr = random_crops(tiles, rng, config.batch, config.crop)
    soft = upsample(F.avg_pool2d(hr, 4), 4).clamp(0, 1)
    choice = torch.from_numpy(rng.random(config.batch) < config.blurred).view(-1, 1, 1, 1)
    return torch.where(choice, soft, hr) * 2 - 1


class Autoencode(nn.Module):
    """Encode and decode in one forward pass, so that a data-parallel wrapper sees one call."""

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Gives the reconstruction and the latents of images (B, 3, H, W) in [-1, 1]."""
        z = self.vae.encode(x).latents
        return self.vae.decode(z).sample, z


def initialise(vae: AutoencoderTiny) -> None:
    """Starts a network so that it keeps the variance of its signal (He et al. 2015).

    These networks have no normalisation layers, and with PyTorch's default the signal fades on its
    way through the strided convolutions.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in vae.modules():
        if isinstance(module, AutoencoderTinyBlock):
            # residual branches start small, so that depth does not add variance
            with torch.no_grad():
                module.conv[-1].weight.mul_(0.1)
    with torch.no_grad():
        # latents of about unit scale, where the decoder's tanh is still linear
        vae.encoder.layers[-1].weight.mul_(0.7)
        vae.decoder.layers[-1].weight.mul_(0.3)


def latent_scale(vae: AutoencoderTiny, tiles: TileSet) -> float:
    """Gives the factor that brings latents to unit variance over the tiles."""
    squares, count = 0.0, 0
    for tile in tiles.pixels[:: max(1, len(tiles.pixels) // 32)]:
        z = vae.encode(
            crop_to_multiple(to_tensor(tile[None]), BLOCK).to(vae.device) * 2 - 1
        ).latents
        squares, count = squares + float(z.square().sum()), count + z.numel()
    return float((squares / count) ** -0.5)


def reconstruction_losses(
    config: AutoencoderConfig, x: Tensor, y: Tensor, z: Tensor, discriminator: nn.Module | None
) -> Losses:
    """Compares reconstructions with images.

    Args:
        config: weights of the losses.
        x: the images, (B, 3, H, W) in [-1, 1].
        y: their reconstructions.
        z: their latents.
        discriminator: scores the reconstructions; None while it is not heard.

    Returns:
        Losses by name, `loss` their weighted sum.
    """
    losses = {
        "l1": (y - x).abs().mean(),
        "gradient": gradient_l1(y, x),
        "texture": texture_l1(y, x),
        "latent": z.square().mean(),
    }
    total = (
        losses["l1"]
        + config.gradient * losses["gradient"]
        + config.texture * losses["texture"]
        + config.latent * losses["latent"]
    )
    # the log has the same columns from the first line to the last
    losses["adversarial"] = torch.zeros((), device=x.device)
    if discriminator is not None:
        losses["adversarial"] = hinge_generator(discriminator(y))
        total = total + config.adversarial * losses["adversarial"]
    return {"loss": total} | losses


def validation_psnr(model: nn.Module, tiles: TileSet) -> float:
    """Gives the mean PSNR in dB of decoded tiles to the tiles themselves."""
    device = next(model.parameters()).device
    values = []
    for tile in tiles.pixels:
        hr = crop_to_multiple(to_tensor(tile[None]), BLOCK)
        decoded = model(hr.to(device) * 2 - 1)[0].cpu()
        values.append(psnr((decoded / 2 + 0.5).clamp(0, 1), hr))
    return sum(values) / len(values)


def fit(config: AutoencoderConfig, run: Run) -> None:
    """Trains, or goes on training; each validation writes vae/."""
    tiles, val = run.splits(16)
    torch.manual_seed(config.loop.seed)
    vae = construct(AutoencoderTiny, config.model, "autoencoder.model")
    initialise(vae)
    model = channels_last(Autoencode(vae))
    averaged = copy.deepcopy(model).eval()
    discriminator = channels_last(PatchDiscriminator())
    pair: dict[str, Tensor] = {}

    def step(module: nn.Module, iteration: int) -> Losses:
        device = next(module.parameters()).device
        x = make_batch(config, tiles, iteration)
        x = x.to(device, memory_format=torch.channels_last)
        y, z = module(x)
        pair.update(real=x, fake=y.detach())
        heard = discriminator if iteration >= config.adversarial_from else None
        return reconstruction_losses(config, x, y, z, heard)

    def discriminator_loss(module: nn.Module, iteration: int) -> Tensor:
        if iteration < config.adversarial_from - DISCRIMINATOR_LEAD:
            return torch.zeros(())
        return hinge_discriminator(module(pair["real"]), module(pair["fake"]))

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        device = next(iter(state.values())).device
        averaged.to(device).load_state_dict(state)
        with torch.inference_mode():
            decibels = validation_psnr(averaged, val)
            scale = latent_scale(averaged.vae, tiles)
        averaged.vae.register_to_config(scaling_factor=scale)
        save_part(averaged.vae, run.out / "vae")
        return {"psnr": round(decibels, 3), "scaling_factor": round(scale, 4)}

    def pictures() -> Mapping[str, Tensor]:
        hr = crop_to_multiple(to_tensor(val.pixels[:PICTURES]), BLOCK)
        hr = hr[..., : config.crop, : config.crop]
        with torch.inference_mode():
            decoded = averaged(hr.to(averaged.vae.device) * 2 - 1)[0]
        return {"decoded": (decoded / 2 + 0.5).clamp(0, 1), "HR": hr}

    train(
        config.loop,
        model,
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        adversary=(discriminator, discriminator_loss),
        pictures=pictures,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "autoencoder", AutoencoderConfig, fit, arguments)
