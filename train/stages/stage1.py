"""Stage 1: train the restoration module (Histo-Diffusion 2024, equation 1).

The paper's is a SwinIR; `architecture: PlainNet` trains a convolutional one, which little compute
brings further.

accelerate launch -m train.stages.stage1 --config train/configs/tiny.yaml --data tiles --out runs/s1
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from train.data import PairConfig, TileSet, agree, pair_feed, to_tensor, upsample, whole
from train.errors import require
from train.loop import Losses, Run, construct, run_stage, save_part, train
from wsisr.errors import UsageError
from wsisr.models.files import PART_CLASSES, fill, load_state, network_class
from wsisr.models.networks import FACTOR, UNSHUFFLE, SwinIR, channels_last, fold_scale

PICTURES = 4
"""Validation tiles that are shown."""


@dataclass(frozen=True)
class Stage1Config(PairConfig):
    """Section `stage1` of a config; batch, crop and scales are the paper's by default.

    Attributes:
        architecture: class of the network, `SwinIR` (the paper) or `PlainNet`.
        model: its arguments.
        loss: `mse` (the paper) or `l1`.
        consistent: take the loss after the projection onto agreement with the input, as inference
            does with soft consistency: the network then spends itself on what the input leaves
            open. Off in the paper.
        init: folder with weights to start from (a `restoration` part); empty to start anew.
    """

    batch: int = 16
    crop: int = 512
    scales: tuple[int, ...] = (4,)
    scale_weights: tuple[float, ...] = (1.0,)
    architecture: str = "SwinIR"
    model: dict[str, Any] = field(default_factory=dict)
    loss: str = "mse"
    consistent: bool = False
    init: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.loss in ("mse", "l1"), f"stage1.loss {self.loss!r}: must be mse or l1")


def block_of(network: nn.Module) -> int:
    """The sides of images for a network are multiples of so many pixels."""
    return UNSHUFFLE * network.window_size if isinstance(network, SwinIR) else FACTOR


def validation_psnr(model: nn.Module, tiles: TileSet, scales: tuple[int, ...]) -> dict[str, float]:
    """PSNR in dB over the tiles for area-averaged inputs: bicubic, the restored image, and that
    image in agreement with the input (what `--model restore` gives).
    """
    figures: dict[str, float] = {}
    device = next(model.parameters()).device
    block = block_of(model)
    for scale in scales:
        errors: dict[str, list[float]] = {"bicubic": [], "network": [], "restore": []}
        for tile in tiles.pixels:
            hr = whole(to_tensor(tile[None]), math.lcm(block, scale))
            lr = (F.avg_pool2d(hr, scale) * 255).round() / 255
            resized = upsample(lr, scale).clamp(0, 1)
            network = model(resized.to(device)).clamp(0, 1).cpu()
            images = {
                "bicubic": resized,
                "network": network,
                "restore": agree(network, lr).clamp(0, 1),
            }
            for name, image in images.items():
                errors[name].append(float(-10 * torch.log10(F.mse_loss(image, hr))))
        for name, values in errors.items():
            figures[f"{name}_x{scale}"] = round(sum(values) / len(values), 3)
    return figures


def fit(config: Stage1Config, run: Run) -> None:
    """Train, or go on training; each validation writes restoration/.

    Raises:
        UsageError: no such architecture.
    """
    classes = PART_CLASSES["restoration"]
    if config.architecture not in classes:
        raise UsageError(
            f"stage1.architecture: {config.architecture!r} is not one of {', '.join(classes)}"
        )
    torch.manual_seed(config.loop.seed)
    architecture = network_class("restoration", config.architecture)
    made = construct(architecture, config.model, "stage1.model")
    crop, block = config.crop, block_of(made)
    kind = config.architecture
    require(crop % block == 0, f"stage1.crop {crop}: must be a multiple of {block} for {kind}")
    network = cast(ModelMixin, made)
    if config.init:
        fill(network, starting_weights(Path(config.init)), config.init)
    train_restoration(config, run, network, config.loss, config.consistent)


def starting_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a `restoration` part to start from: what all scales share, no layer of detail."""
    state = fold_scale(load_state(folder), 0, None, str(folder))
    return {key: value for key, value in state.items() if not key.startswith("last_detail.")}


def train_restoration(
    config: PairConfig,
    run: Run,
    network: ModelMixin,
    loss: str,
    consistent: bool,
    finish: Callable[[nn.Module], None] = lambda network: None,
) -> None:
    """Train what of a network is not frozen on pairs; each validation writes restoration/.

    Args:
        config: pairs and loop.
        run: data, folder and limits.
        network: (B, 3, H, W) resized images -> restored ones.
        loss, consistent: see `Stage1Config`.
        finish: changes the averaged network before it is validated and written.
    """
    tiles, val = run.splits(16)
    averaged = copy.deepcopy(network).eval()
    feed = pair_feed(config, tiles, run.batch_workers)

    def step(module: nn.Module, iteration: int) -> Losses:
        lr, hr, scale = feed(iteration)
        device = next(module.parameters()).device
        lr, hr = (image.to(device, non_blocking=True) for image in (lr, hr))
        restored = module(upsample(lr, scale).contiguous(memory_format=torch.channels_last))
        if consistent:
            # half precision would leave a grey level of disagreement
            with torch.autocast(device.type, enabled=False):
                restored = agree(restored.float(), lr)
        return {"loss": (F.l1_loss if loss == "l1" else F.mse_loss)(restored, hr)}

    def validate(state: Mapping[str, Tensor], iteration: int) -> Mapping[str, float]:
        averaged.to(next(iter(state.values())).device).load_state_dict(state)
        finish(averaged)
        save_part(averaged, run.out / "restoration")
        with torch.inference_mode():
            return validation_psnr(averaged, val, config.scales)

    def pictures() -> Mapping[str, Tensor]:
        scale, block = max(config.scales), block_of(averaged)
        hr = whole(to_tensor(val.pixels[:PICTURES]), math.lcm(block, scale))
        hr = hr[..., : config.crop, : config.crop]
        lr = (F.avg_pool2d(hr, scale) * 255).round() / 255
        with torch.inference_mode():
            restored = averaged(upsample(lr, scale).clamp(0, 1).to(averaged.device))
        return {"LR": lr, "restored": restored, "HR": hr}

    train(
        config.loop,
        channels_last(network),
        run.out,
        step,
        validate=validate,
        minutes=run.minutes,
        pictures=pictures,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stage; returns its exit code."""
    return run_stage(__doc__, "stage1", Stage1Config, fit, arguments)


if __name__ == "__main__":
    sys.exit(main())
