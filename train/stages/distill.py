"""Trains stage 2 for few steps, end to end, in pixels, on the very path of inference.

    python -m train distill --config train/configs/tiny.yaml --data tiles --out runs/distill

The student starts from the parts of a trained model folder and runs its few steps from the noised
latent of the restored image, is decoded, colour-fixed and projected onto agreement with the input;
only then the losses look at it. So the decoder learns with the sampler (what the autoencoder
cannot reconstruct is taken from stage 1 by the projection), and what is trained is what
`wsisr upscale` does. No image prior is at hand that knows histology, hence no score distillation:
the teacher is the real scan, by L1, local contrast, the features of a network of photographs, and
a discriminator (`train.losses`).

One-step and few-step restorers of this kind: AddSR (Xie et al. 2024), OSEDiff (Wu et al. 2024),
HYPIR (Lin et al. 2025); the null space as the place of invention: DDNM (Wang et al. 2023).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import AutoencoderTiny
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, CountOrZero, Flag, Number, Text
from train.data import PairConfig, agree, batch_part, batch_rng, pair_feed, upsample
from train.errors import require
from train.judge import example_images, judge_model
from train.loop import Losses, Run, make_accelerator, run_stage, train
from train.losses import AdversarialLoss, ImageLoss, spread_l1
from wsisr.errors import ModelError, UsageError
from wsisr.models import (
    SecondStage,
    Settings,
    from_pretrained,
    repeat,
    run_stages,
    save_pretrained,
    timesteps_of,
)
from wsisr.models.files import load_restoration, load_state, read_card
from wsisr.models.networks import (
    LORA_SUFFIXES,
    GuidedAutoencoderTiny,
    PlainNet,
    adapt,
    channels_last,
    fold_scale,
    latent_factor,
    select_scale,
)


@dataclass(frozen=True, config=STRICT_KEYS)
class DistillConfig(PairConfig):
    """Section `distill` of a config.

    Attributes:
        teacher: model folder whose parts the student starts from.
        restoration: folder of another stage 1 than the teacher's; empty for the teacher's own.
        sampling: fields of `Settings` that the student is trained for, and exported with.
        train_encoder: whether the autoencoder's encoder learns too.
        train_diffusion: whether UNet and ControlNet learn.
        rank: rank of the change that each convolution of stage 1 and autoencoder gets for each
            scale of the teacher (`wsisr.models.networks.lora`); 0 for none. What the teacher has of
            them is kept.
        shared: whether the weights that scales share learn. Without, only the changes do, and no
            weight decays, so that scales which are not trained stay as they are.
        guided: whether the decoder of a small autoencoder adds to the image it starts from, see
            `wsisr.models.networks.guided`.
        stage1: weight of L1 of the restored image; stage 1 is then trained along, for its image and
            its detail share their features. At 0 it is frozen but for its layer of detail.
        samples: number of images that are generated of each crop, each from its own noise; a
            batch is so many times as large.
        spread: weight of what `spread_l1` of them takes from the loss; needs two samples.
        loss: see `ImageLoss`.
        judged: validation tiles that `train.judge` looks at.
    """

    teacher: Text = ""
    restoration: Text = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    train_encoder: Flag = False
    train_diffusion: Flag = True
    guided: Flag = False
    rank: CountOrZero = 0
    shared: Flag = True
    stage1: Number = 0.0
    samples: Count = 1
    spread: Number = 0.0
    loss: ImageLoss = field(default_factory=ImageLoss)
    judged: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.crop % 8 == 0, f"crop {self.crop}: must be a multiple of 8, a latent's side")
        enough = self.samples >= (2 if self.spread else 1)
        require(enough, f"samples {self.samples}: must be 2 or more with spread")


class Student(nn.Module):
    """The low-resolution image to the finished one, as one trainable function."""

    def __init__(
        self,
        stage1: nn.Module,
        second: SecondStage,
        settings: Settings,
        train_encoder: bool,
        train_stage1: bool,
        train_diffusion: bool = True,
        scales: Sequence[float] = (),
        train_shared: bool = True,
    ) -> None:
        super().__init__()
        self.restoration = stage1
        self.vae, self.diffusion = second.vae, second.diffusion
        self.schedule, self.settings = second.schedule, settings
        self.scales = tuple(scales)
        self.train().requires_grad_(True)
        cast(nn.Module, self.vae.encoder).requires_grad_(train_encoder)
        self.diffusion.requires_grad_(train_diffusion)
        self.restoration.requires_grad_(train_stage1)
        if isinstance(stage1, PlainNet) and stage1.last_detail is not None:
            stage1.last_detail.requires_grad_(True)
        if not train_shared:
            for name, parameter in self.named_parameters():
                learns = parameter.requires_grad and name.endswith(LORA_SUFFIXES)
                parameter.requires_grad_(learns)

    def forward(
        self, lr: Tensor, noise: Tensor, scale: int, samples: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Computes the finished images, not clipped, and the restored ones.

        Args:
            lr: (B, 3, H / scale, W / scale) in [0, 1].
            noise: (steps, samples B, C, h, w), standard normal.
            scale: integer factor.
            samples: images that are generated of each, one batch behind the other.

        Returns:
            (samples B, 3, H, W), (B, 3, H, W).
        """
        select_scale(self, self.scales.index(scale) if self.scales else None)
        resized = upsample(lr, scale).clamp(0, 1).contiguous(memory_format=torch.channels_last)

        def bring(images: Tensor, *, limited: bool) -> Tensor:
            return agree(images, repeat(lr, len(images) // len(lr)), limited)

        restored, images = run_stages(
            self.restoration,
            SecondStage(self.vae, self.diffusion, self.schedule),
            self.settings,
            resized,
            None if self.settings.consistency == "off" else bring,
            [lambda step, _: noise[step]],
            repeats=samples,
            detach=True,
        )
        return next(images), restored


def make_noise(
    config: DistillConfig, shape: tuple[int, ...], iteration: int, device: torch.device
) -> Tensor:
    """Draws the standard normal noise of an iteration; a GPU's differs from a CPU's."""
    seed = int(batch_rng(config.loop.seed, iteration, 2**30 + batch_part()).integers(2**62))
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device)


def fit(config: DistillConfig, run: Run) -> None:
    """Trains, or goes on training; each validation writes model/.

    Args:
        config: teacher, pairs, losses and loop.
        run: data, folder and limits.

    Raises:
        ModelError: the teacher is broken or has no second stage.
        UsageError: a scale that the teacher does not know, or nothing learns.
    """
    tiles, val = run.splits()
    torch.manual_seed(config.loop.seed)
    accelerator = make_accelerator(config.loop)
    device = accelerator.device
    student = make_student(config, device)
    averaged = copy.deepcopy(student)
    adversarial = AdversarialLoss(config.loss)
    feed = pair_feed(config, tiles, run.batch_workers)
    noise_shape = shape_of_noise(config, student)

    def step(module: nn.Module, iteration: int) -> Losses:
        lr, hr, scale = feed(iteration)
        lr, hr = (image.to(device, non_blocking=True) for image in (lr, hr))
        noise = make_noise(config, noise_shape, iteration, device)
        images, restored = module(lr, noise, scale, config.samples)
        hrs, condition = (repeat(each, config.samples) for each in (hr, restored.detach()))
        losses = adversarial.losses(images, hrs, condition, scale, iteration)
        losses["restored"] = (restored - hr).abs().mean()
        losses["spread"] = spread_l1(images, config.samples)
        more = config.stage1 * losses["restored"] - config.spread * losses["spread"]
        return {**losses, "loss": losses["loss"] + more}

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged.load_state_dict(state)
        parts = {
            "restoration": averaged.restoration,
            "vae": averaged.vae,
            "unet": averaged.diffusion.unet,
            "controlnet": averaged.diffusion.controlnet,
        }
        folder = run.out / "model"
        write_model(folder, Path(config.teacher), parts, averaged.diffusion.prompt, config.sampling)
        return judge_model(folder, val, config.scales, config.judged, device)

    # decay would move the changes of scales that are not trained, too
    loop = config.loop if config.shared else replace(config.loop, weight_decay=0.0)
    train(
        loop,
        student,
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        adversary=(adversarial.discriminator, adversarial.discriminator_loss),
        accelerator=accelerator,
        pictures=lambda: example_images(run.out / "model", val, max(config.scales)),
    )


def make_student(config: DistillConfig, device: torch.device) -> Student:
    """Makes the student from the teacher's parts, with the changes that scales get.

    Raises:
        ModelError: the teacher is broken or has no second stage.
        UsageError: a scale that the teacher does not know, or nothing learns.
    """
    origin = Path(config.teacher)
    teacher = from_pretrained(origin, settings=config.sampling, device=device)
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
    stage1 = teacher.restoration
    places = {
        Path(config.restoration or origin / "restoration"): stage1,
        origin / "vae": cast(nn.Module, second.vae),
    }
    scales = adapt_to_scales(config, read_card(origin).scales, places)
    if not (scales or config.shared):
        raise UsageError("distill.shared: without it and without `rank` nothing learns")
    return channels_last(
        Student(
            stage1,
            second,
            settings,
            config.train_encoder,
            config.stage1 > 0,
            config.train_diffusion,
            scales,
            config.shared,
        )
    )


def shape_of_noise(config: DistillConfig, student: Student) -> tuple[int, ...]:
    """Gives the shape of an iteration's noise, (steps, samples x batch, C, h, w)."""
    settings, vae = student.settings, student.vae
    latents = config.crop // latent_factor(vae)
    steps = len(timesteps_of(settings.sampler, settings.steps, settings.first_timestep))
    return (steps, config.samples * config.batch, vae.config.latent_channels, latents, latents)


def adapt_to_scales(
    config: DistillConfig, scales: Sequence[float], places: Mapping[Path, nn.Module]
) -> Sequence[float]:
    """Adapts networks to scales, with what the folders they come from hold of it.

    Args:
        config: says the rank, and the scales that are trained.
        scales: those of the teacher.
        places: folder -> network that comes from there.

    Returns:
        `scales`, or none where nothing depends on them.

    Raises:
        UsageError: a scale is to be trained that the teacher does not know.
        ModelError: what a folder holds does not fit its weights or the teacher's scales.
    """
    # an autoencoder that belongs to the base has no folder here
    states = {place: load_state(place) if place.is_dir() else {} for place in places}
    # in the order of `places`: what is drawn for one must not depend on how paths are hashed
    changing = [
        place
        for place, state in states.items()
        if config.rank or any(key.endswith(LORA_SUFFIXES) for key in state)
    ]
    if not changing:
        return ()
    if missing := sorted(set(config.scales) - set(scales)):
        raise UsageError(f"distill.scales: {config.teacher} knows no scale {missing[0]}")
    for place in changing:
        fold_scale(states[place], len(scales), None, str(place))
        adapt(places[place], len(scales), config.rank, states[place])
    return scales


def load_stage1(folder: Path, device: torch.device) -> nn.Module:
    """Loads a trained `restoration` part, frozen."""
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
    """Writes a model folder in half precision, for `wsisr upscale --model`."""
    card = read_card(teacher)
    classes = {name: type(module).__name__ for name, module in parts.items()}
    # what suited the teacher's weights at some scales need not suit these
    sampling = {**card.sampling, **sampling}
    card = replace(card, parts=classes, sampling=sampling, settings_by_scale={})
    halves = {name: copy.deepcopy(module).half() for name, module in parts.items()}
    save_pretrained(folder, card, halves, prompt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "distill", DistillConfig, fit, arguments)
