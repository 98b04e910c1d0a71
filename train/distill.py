"""Few steps: stage 2 trained end to end, in pixels, on the very path of inference.

    accelerate launch -m train.distill --config train/configs/tiny.yaml --data tiles \
        --out runs/distill

The student starts from the parts of a trained model folder and runs its few steps from the noised
latent of the restored image, is decoded, colour-fixed and projected onto agreement with the input;
only then the losses look at it. So the decoder learns with the sampler (what the autoencoder
cannot reconstruct is taken from stage 1 by the projection), and what is trained is what
`wsisr upscale` does. No image prior is at hand that knows histology, hence no score distillation:
the teacher is the real scan, by L1, local contrast, and a patch adversary that sees the restored
image beside the candidate.

One-step and few-step restorers of this kind: AddSR (Xie et al. 2024), OSEDiff (Wu et al. 2024),
HYPIR (Lin et al. 2025); the null space as the place of invention: DDNM (Wang et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from train.command import parse
from train.data import TileSet, batch_rng, load_tiles, part, random_crops
from train.degradation import agree, degrade, upsample
from train.judge import judge
from train.loop import LoopConfig, Losses, train
from train.losses import ImageLoss, PatchDiscriminator, beside, hinge_discriminator
from train.stage1 import draw_scale
from wsisr.models import Settings, from_pretrained, save_pretrained
from wsisr.models.diffusion import latent_factor
from wsisr.models.dualstage import SecondStage, add_detail, generate
from wsisr.models.loading import load_module, read_card
from wsisr.models.restoration import SwinIR, channels_last
from wsisr.models.sampling import timesteps_of


@dataclass(frozen=True)
class DistillConfig:
    """Section `distill` of a config.

    Attributes:
        teacher: model folder whose parts the student starts from.
        restoration: folder of another stage 1 than the teacher's; empty for the teacher's own.
        sampling: fields of `Settings` that the student is trained for, and exported with.
        train_encoder: whether the autoencoder's encoder learns too.
        batch, crop: crops an iteration and process, side in px.
        scales, scale_weights: one is drawn for each iteration.
        degradation: see `train.degradation.degrade`.
        loss: see `ImageLoss`.
        judged: validation tiles that `train.judge` looks at.
        loop: see `LoopConfig`.
    """

    teacher: str = ""
    restoration: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    train_encoder: bool = False
    batch: int = 8
    crop: int = 128
    scales: tuple[int, ...] = (2, 4, 8)
    scale_weights: tuple[float, ...] = (0.1, 0.45, 0.45)
    degradation: str = "scanner"
    loss: ImageLoss = field(default_factory=ImageLoss)
    judged: int = 8
    loop: LoopConfig = field(default_factory=LoopConfig)


class Student(nn.Module):
    """Stage 2 from the restored image to the finished one, as one trainable function."""

    def __init__(self, second: SecondStage, settings: Settings, train_encoder: bool) -> None:
        super().__init__()
        self.vae, self.diffusion = second.vae, second.diffusion
        self.schedule, self.settings = second.schedule, settings
        self.train().requires_grad_(True)
        cast(nn.Module, self.vae.encoder).requires_grad_(train_encoder)

    def forward(self, restored: Tensor, lr: Tensor, noise: Tensor) -> Tensor:
        """The finished image, not clipped.

        Args:
            restored: (B, 3, H, W) in [0, 1], stage 1's result in agreement with `lr`.
            lr: (B, 3, H / scale, W / scale) in [0, 1].
            noise: (steps, B, C, h, w), standard normal.
        """
        second = SecondStage(self.vae, self.diffusion, self.schedule)
        generated = generate(second, self.settings, restored, lambda step, _: noise[step])
        # colours and agreement need more than half precision, as at inference
        with torch.autocast(restored.device.type, enabled=False):
            return agree(add_detail(self.settings, restored, generated.float()), lr)


def make_input(
    config: DistillConfig, stage1: SwinIR, tiles: TileSet, iteration: int, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(restored, low resolution, high resolution) of an iteration, in [0, 1]."""
    rng = batch_rng(config.loop.seed, iteration, rank)
    scale = draw_scale(config.loop.seed, iteration, config.scales, config.scale_weights)
    hr = random_crops(tiles, rng, config.batch, config.crop)
    lr = degrade(hr, scale, rng, config.degradation)
    device = next(stage1.parameters()).device
    with torch.no_grad():
        resized = upsample(lr, scale).clamp(0, 1)
        restored = stage1(resized.to(device, memory_format=torch.channels_last)).clamp(0, 1)
        with torch.autocast(device.type, enabled=False):
            restored = agree(restored.float(), lr.to(device)).clamp(0, 1)
    return restored, lr.to(device), hr.to(device)


def make_noise(config: DistillConfig, shape: tuple[int, ...], iteration: int, rank: int) -> Tensor:
    """Standard normal noise of an iteration."""
    seed = int(batch_rng(config.loop.seed, iteration, 2**30 + rank).integers(2**62))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def main() -> None:
    """Run the stage."""
    args, config = parse(__doc__ or "", "distill", DistillConfig)
    tiles = load_tiles(args.data / "train", args.limit)
    val = load_tiles(args.data / "val", args.limit)
    torch.manual_seed(config.loop.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    teacher = from_pretrained(Path(config.teacher), settings=config.sampling, device=device)
    if config.restoration:
        teacher.restoration = load_stage1(Path(config.restoration), device)
    assert teacher.second is not None
    second, settings = teacher.second, teacher.settings
    student = channels_last(Student(second, settings, config.train_encoder))
    rival = channels_last(PatchDiscriminator(channels=6))
    latents = config.crop // latent_factor(second.vae)
    steps = len(timesteps_of(settings.sampler, settings.steps, settings.first_timestep))
    noise_shape = (steps, config.batch, second.vae.config.latent_channels, latents, latents)
    shown: dict[str, Tensor] = {}

    def step(module: nn.Module, iteration: int) -> Losses:
        restored, lr, hr = make_input(config, teacher.restoration, tiles, iteration, part())
        noise = make_noise(config, noise_shape, iteration, part()).to(restored.device)
        image = module(restored, lr, noise)
        shown["real"], shown["fake"] = beside(hr, restored), beside(image.detach(), restored)
        return config.loss(image, hr, restored, rival, iteration)

    def rival_loss(module: nn.Module, iteration: int) -> Tensor:
        # the rival learns a little ahead, so that its first word is not noise
        if iteration < config.loss.adversarial_from - 50:
            return torch.zeros(())
        return hinge_discriminator(module(shown["real"]), module(shown["fake"]))

    averaged = copy.deepcopy(student)

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged.load_state_dict(state)
        parts = {
            "restoration": teacher.restoration,
            "vae": averaged.vae,
            "unet": averaged.diffusion.unet,
            "controlnet": averaged.diffusion.controlnet,
        }
        folder = args.out / "model"
        write_model(folder, Path(config.teacher), parts, averaged.diffusion.prompt, config.sampling)
        model = from_pretrained(folder, device=device)
        return judge(model, val, [s for s in config.scales if s > 2], config.judged)

    train(
        config.loop,
        student,
        args.out,
        step,
        validate=validate,
        minutes=args.minutes,
        adversary=(rival, rival_loss),
    )


def load_stage1(folder: Path, device: str) -> SwinIR:
    """A trained `restoration` part, frozen."""
    module = channels_last(cast(SwinIR, load_module(folder, SwinIR)))
    module.eval().requires_grad_(False).to(device)
    return module


def write_model(
    folder: Path,
    teacher: Path,
    parts: Mapping[str, nn.Module],
    prompt: Tensor,
    sampling: Mapping[str, Any],
) -> None:
    """Write a model folder in half precision, for `wsisr upscale --model`."""
    card = read_card(teacher)
    card = replace(card, sampling={**card.sampling, **sampling})
    halves = {name: copy.deepcopy(module).half() for name, module in parts.items()}
    save_pretrained(folder, card, halves, prompt)


if __name__ == "__main__":
    main()
