"""Trains stage 2, the controllable diffusion module (Histo-Diffusion 2024, equation 2).

    python -m train stage2 --config train/configs/tiny.yaml --data tiles --out runs/s2

With a pretrained UNet (`base`) only the ControlNet learns, as in the paper, and the prompt is what
the base's text encoder makes of no text. Without one there is no prior to keep, so UNet and
ControlNet learn together, and the prompt is zero.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, UNet2DConditionModel
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, Integer, Text
from train.data import batch_part, batch_rng
from train.errors import DataError
from train.loop import LoopConfig, Losses, Run, construct, run_stage, save_part, train
from train.stages.latents import Bank, load_bank
from wsisr.errors import ModelError
from wsisr.models import Schedule, ddim, make_schedule, spaced_timesteps
from wsisr.models.files import load_module
from wsisr.models.networks import (
    ControllableDiffusion,
    LatentControlNet,
    Vae,
    channels_last,
    decode,
)
from wsisr.models.published import load_base

PICTURES = 4
"""Number of held-out pairs that are shown."""
STEPS = 20
"""Steps of sampling, for pictures."""


@dataclass(frozen=True, config=STRICT_KEYS)
class Stage2Config:
    """Section `stage2` of a config.

    Attributes:
        bank: folder of latent pairs, that of the stage `latents`.
        base: a pretrained Stable Diffusion, frozen: hub id, folder or file (see
            `wsisr.models.published.load_base`); empty to train a UNet from scratch.
        unet: arguments of diffusers' `UNet2DConditionModel` where there is no `base`.
        prompt_tokens: tokens of the zero prompt where there is no `base`.
        batch: pairs an iteration and process.
        crop: side of a crop in latents.
        held_out: number of pairs at the end of the bank, at most a quarter, that the validation
            loss is taken of.
        largest_timestep: noise levels above it are never used at inference (start from the
            condition), so they need not be learnt.
        loop: see `LoopConfig`.
    """

    bank: Text = ""
    base: Text = ""
    unet: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: Count = 1
    batch: Count = 16
    crop: Count = 32
    held_out: Count = 16
    largest_timestep: Annotated[Integer, Field(ge=0, le=999)] = 999
    loop: LoopConfig = field(default_factory=LoopConfig)


def make_model(config: Stage2Config) -> ControllableDiffusion:
    """Makes the UNet (pretrained and frozen, or new), its ControlNet, and the blank prompt.

    Raises:
        ModelError: see `load_base`; or the base predicts v, where the noise is what is learnt.
    """
    if not config.base:
        unet = construct(UNet2DConditionModel, config.unet, "stage2.unet")
        prompt = torch.zeros(config.prompt_tokens, unet.config.cross_attention_dim)
        return ControllableDiffusion(unet, LatentControlNet.of_unet(unet), prompt)
    base = load_base(config.base, ("unet", "prompt"))
    if base.prediction not in (None, "epsilon"):
        raise ModelError(
            f"stage2.base {config.base}: its UNet predicts {base.prediction}, training needs one "
            "that predicts epsilon, as Stable Diffusion 2.1-base does"
        )
    unet = cast(UNet2DConditionModel, base.modules["unet"])
    unet.requires_grad_(False)
    return ControllableDiffusion(unet, LatentControlNet.of_unet(unet), cast(Tensor, base.prompt))


def copy_for_average(model: ControllableDiffusion, frozen: bool) -> ControllableDiffusion:
    """Copies a model for the averaged weights; a frozen UNet is shared, being the larger half."""
    unet = model.unet if frozen else copy.deepcopy(model.unet)
    return ControllableDiffusion(unet, copy.deepcopy(model.controlnet), model.prompt.clone())


def diffusion_loss(
    module: nn.Module,
    schedule: Schedule,
    pair: tuple[Tensor, Tensor],
    draw: torch.Generator,
    top: int,
) -> Tensor:
    """Gives the mean squared error of the predicted noise at random timesteps.

    Args:
        module: predicts the noise.
        schedule: of the diffusion.
        pair: clean latents and condition, (B, C, h, w) each.
        draw: generator of timesteps and noise, on the CPU.
        top: largest timestep.
    """
    clean, condition = pair
    timestep = torch.randint(0, top + 1, (clean.shape[0],), generator=draw)
    noise = torch.randn(clean.shape, generator=draw).to(clean.device)
    noisy = schedule.q_sample(clean, timestep.to(clean.device), noise)
    return F.mse_loss(module(noisy, timestep.to(clean.device), condition), noise)


def find_vae(config: Stage2Config) -> Vae | None:
    """Loads the autoencoder of the bank's latents: beside them, or the base's; or none."""
    place = Path(config.bank) / "vae"
    if place.is_dir():
        return cast(Vae, load_module(place, AutoencoderTiny)).eval()
    if config.base:
        return cast(Vae, load_base(config.base, ("vae",)).modules["vae"]).eval()
    return None


def sample(model: ControllableDiffusion, schedule: Schedule, condition: Tensor, top: int) -> Tensor:
    """Draws latents (B, C, h, w) from noised ones of the restored images, in `STEPS` steps."""
    noise = torch.randn(condition.shape, generator=torch.Generator().manual_seed(0))
    z = schedule.q_sample(condition, top, noise.to(condition.device))
    timesteps = spaced_timesteps(STEPS, top)
    return ddim(lambda z, t: model(z, t, condition), z, timesteps, schedule, lambda i: noise)


def save_parts(model: ControllableDiffusion, out: Path, own_unet: bool) -> None:
    """Writes what of a model was trained: controlnet/, the prompt and, where it is its own, unet/.

    Args:
        model: with the averaged weights.
        out: folder of the run.
        own_unet: whether the UNet was trained here, and is not that of a base.
    """
    if own_unet:
        save_part(model.unet, out / "unet")
    # a pretrained model comes as one file, and so may its ControlNet
    save_part(model.controlnet, out / "controlnet", one_file=not own_unet)
    save_file({"prompt": model.prompt.cpu().contiguous()}, out / "prompt.safetensors")


def check_bank(config: Stage2Config, bank: Bank) -> None:
    """Checks that a bank can be trained and validated on.

    Raises:
        DataError: it holds fewer than four pairs, or they are smaller than the crop.
    """
    pairs, _, height, width = bank.clean.shape
    if pairs < 4:
        raise DataError(f"{config.bank}: holds {pairs} pairs, fewer than 4; encode more tiles")
    if config.crop > min(height, width):
        raise DataError(
            f"{config.bank}: latents of {width}x{height} are smaller than a crop of {config.crop}; "
            "lower stage2.crop"
        )


def fit(config: Stage2Config, run: Run) -> ControllableDiffusion:
    """Trains, or goes on training, in the folder `run.out`.

    At each validation the averaged weights are written: controlnet/, prompt.safetensors, and unet/
    unless it is the base's. The tiles are not read: they are in the bank. Pictures show what is
    sampled from held-out pairs, where the bank has its autoencoder beside it or the base has one.

    Returns:
        The model as it was trained, with the latest weights.

    Raises:
        DataError: the bank holds fewer than four pairs, or they are smaller than the crop.
        ModelError: see `make_model`.
    """
    everything = load_bank(Path(config.bank))
    check_bank(config, everything)
    pairs = len(everything.clean)
    split = pairs - min(config.held_out, pairs // 4)
    bank = Bank(everything.clean[:split], everything.condition[:split])
    held = (everything.clean[split:].float(), everything.condition[split:].float())
    torch.manual_seed(config.loop.seed)
    model = channels_last(make_model(config))
    averaged = copy_for_average(model, frozen=bool(config.base))
    schedule = make_schedule()
    vae = find_vae(config)

    def step(module: nn.Module, iteration: int) -> Losses:
        device = next(module.parameters()).device
        rng = batch_rng(config.loop.seed, iteration, batch_part())
        pair = bank.crops(rng, config.batch, config.crop)
        draw = torch.Generator().manual_seed(int(rng.integers(2**62)))
        on_device = (pair[0].to(device), pair[1].to(device))
        top = config.largest_timestep
        return {"loss": diffusion_loss(module, schedule, on_device, draw, top)}

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        device = next(iter(state.values())).device
        averaged.to(device).eval().load_state_dict(state)
        save_parts(averaged, run.out, own_unet=not config.base)
        draw = torch.Generator().manual_seed(0)
        pair = (held[0].to(device), held[1].to(device))
        with torch.inference_mode():
            loss = diffusion_loss(averaged, schedule, pair, draw, config.largest_timestep)
        return {"loss": round(float(loss), 5)}

    def pictures() -> Mapping[str, Tensor]:
        if vae is None:
            return {}
        few = slice(0, PICTURES), slice(None), slice(0, config.crop), slice(0, config.crop)
        device = averaged.prompt.device
        clean, condition = (each[few].to(device) for each in held)
        with torch.inference_mode():
            drawn = sample(averaged, schedule, condition, config.largest_timestep)
            latents = {"restored": condition, "sampled": drawn, "HR, decoded": clean}
            return {name: decode(vae.to(device), z).clamp(0, 1) for name, z in latents.items()}

    train(
        config.loop,
        model,
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        pictures=pictures,
    )
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "stage2", Stage2Config, fit, arguments)
