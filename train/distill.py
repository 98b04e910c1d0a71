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
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from train.command import Run, run_stage
from train.data import batch_rng, part
from train.degradation import agree, upsample
from train.judge import examples, judge
from train.loop import Losses, train
from train.losses import Contest, ImageLoss
from train.pairs import PairConfig, pair_feed
from wsisr.errors import ModelError
from wsisr.models import Settings, from_pretrained, save_pretrained
from wsisr.models.diffusion import latent_factor
from wsisr.models.dualstage import SecondStage, add_detail, generate
from wsisr.models.guided import GuidedAutoencoderTiny
from wsisr.models.loading import read_card
from wsisr.models.parts import load_restoration
from wsisr.models.plain import FACTOR, PlainNet
from wsisr.models.restoration import channels_last
from wsisr.models.sampling import timesteps_of


@dataclass(frozen=True)
class DistillConfig(PairConfig):
    """Section `distill` of a config.

    Attributes:
        teacher: model folder whose parts the student starts from.
        restoration: folder of another stage 1 than the teacher's; empty for the teacher's own.
        sampling: fields of `Settings` that the student is trained for, and exported with.
        train_encoder: whether the autoencoder's encoder learns too.
        guided: let the decoder of a small autoencoder look at the restored image, see
            `wsisr.models.guided`.
        loss: see `ImageLoss`.
        judged: validation tiles that `train.judge` looks at.
    """

    teacher: str = ""
    restoration: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    train_encoder: bool = False
    guided: bool = False
    loss: ImageLoss = field(default_factory=ImageLoss)
    judged: int = 8


class Student(nn.Module):
    """Stage 2 from the restored image to the finished one, as one trainable function."""

    def __init__(
        self,
        second: SecondStage,
        settings: Settings,
        train_encoder: bool,
        detail: nn.Conv2d | None = None,
    ) -> None:
        """detail: stage 1's layer of detail, which students with `residual` add."""
        super().__init__()
        self.vae, self.diffusion = second.vae, second.diffusion
        self.detail = detail if settings.residual else None
        self.schedule, self.settings = second.schedule, settings
        self.train().requires_grad_(True)
        cast(nn.Module, self.vae.encoder).requires_grad_(train_encoder)

    def forward(
        self, restored: Tensor, lr: Tensor, noise: Tensor, features: Tensor | None = None
    ) -> Tensor:
        """The finished image, not clipped.

        Args:
            restored: (B, 3, H, W) in [0, 1], stage 1's result in agreement with `lr`.
            lr: (B, 3, H / scale, W / scale) in [0, 1].
            noise: (steps, B, C, h, w), standard normal.
            features: of stage 1, what its layer of detail reads.
        """
        second = SecondStage(self.vae, self.diffusion, self.schedule)
        generated = generate(second, self.settings, restored, lambda step, _: noise[step])
        if self.detail is not None:
            generated = generated + F.pixel_shuffle(self.detail(features), FACTOR)
        # colours and agreement need more than half precision, as at inference
        with torch.autocast(restored.device.type, enabled=False):
            return agree(add_detail(self.settings, restored, generated.float()), lr, limited=True)


def restore(stage1: nn.Module, lr: Tensor, scale: int) -> tuple[Tensor, Tensor | None]:
    """Stage 1's result for low-resolution images on its device, in agreement with them, and the
    features it was read from, where it has a layer of detail."""
    with torch.no_grad():
        resized = upsample(lr, scale).clamp(0, 1).contiguous(memory_format=torch.channels_last)
        if isinstance(stage1, PlainNet) and stage1.last_detail is not None:
            features = stage1.features(resized)
            restored = stage1.image_of(resized, features)
        else:
            features, restored = None, stage1(resized)
        with torch.autocast(lr.device.type, enabled=False):
            return agree(restored.float().clamp(0, 1), lr).clamp(0, 1), features


def make_noise(
    config: DistillConfig, shape: tuple[int, ...], iteration: int, device: torch.device
) -> Tensor:
    """Standard normal noise of an iteration; a GPU's differs from a CPU's."""
    seed = int(batch_rng(config.loop.seed, iteration, 2**30 + part()).integers(2**62))
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)


def fit(config: DistillConfig, run: Run) -> None:
    """Train, or go on training; each validation writes model/.

    Raises:
        ModelError: the teacher is broken or has no second stage.
    """
    tiles, val = run.tiles("train"), run.tiles("val")
    torch.manual_seed(config.loop.seed)
    accelerator = Accelerator(mixed_precision=config.loop.mixed_precision)
    device = accelerator.device
    teacher = from_pretrained(Path(config.teacher), settings=config.sampling, device=device)
    second, settings = teacher.second, teacher.settings
    if second is None:
        raise ModelError(
            f"{config.teacher}: has no second stage to distil at fidelity {settings.fidelity:g}; "
            "set distill.teacher or distill.sampling"
        )
    if config.restoration:
        teacher.restoration = load_stage1(Path(config.restoration), device)
    if config.guided and type(second.vae) is AutoencoderTiny:
        second = replace(second, vae=GuidedAutoencoderTiny.of(second.vae))
    detail = getattr(teacher.restoration, "last_detail", None)
    student = channels_last(Student(second, settings, config.train_encoder, detail))
    averaged = copy.deepcopy(student)
    contest = Contest(config.loss)
    feed = pair_feed(config, tiles, run.batch_workers)
    latents = config.crop // latent_factor(second.vae)
    steps = len(timesteps_of(settings.sampler, settings.steps, settings.first_timestep))
    noise_shape = (steps, config.batch, second.vae.config.latent_channels, latents, latents)

    def step(module: nn.Module, iteration: int) -> Losses:
        lr, hr, scale = feed(iteration)
        lr, hr = (image.to(device, non_blocking=True) for image in (lr, hr))
        restored, features = restore(teacher.restoration, lr, scale)
        noise = make_noise(config, noise_shape, iteration, device)
        image = module(restored, lr, noise, features)
        return contest.losses(image, hr, restored, scale, iteration)

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged.load_state_dict(state)
        restoration = copy.deepcopy(teacher.restoration)
        if averaged.detail is not None:
            restoration.last_detail = averaged.detail
        parts = {
            "restoration": restoration,
            "vae": averaged.vae,
            "unet": averaged.diffusion.unet,
            "controlnet": averaged.diffusion.controlnet,
        }
        folder = run.out / "model"
        write_model(folder, Path(config.teacher), parts, averaged.diffusion.prompt, config.sampling)
        return judge(from_pretrained(folder, device=device), val, config.scales, config.judged)

    train(
        config.loop,
        student,
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        adversary=(contest.rival, contest.rival_loss),
        accelerator=accelerator,
        pictures=lambda: examples(run.out / "model", val, max(config.scales)),
    )


def load_stage1(folder: Path, device: torch.device) -> nn.Module:
    """A trained `restoration` part, frozen."""
    module = channels_last(load_restoration(folder))
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
    classes = {name: type(module).__name__ for name, module in parts.items()}
    card = replace(card, parts=classes, sampling={**card.sampling, **sampling})
    halves = {name: copy.deepcopy(module).half() for name, module in parts.items()}
    save_pretrained(folder, card, halves, prompt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; returns its exit code."""
    return run_stage(__doc__, "distill", DistillConfig, fit, arguments)


if __name__ == "__main__":
    sys.exit(main())
