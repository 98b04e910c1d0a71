"""Trains stage 1, the restoration module (Histo-Diffusion 2024, equation 1).

    python -m train stage1 --config train/configs/tiny.yaml --data tiles --out runs/s1

The paper's network is a SwinIR; `architecture: PlainNet` trains a convolutional one, which little
compute brings further.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from train.config import STRICT_KEYS, Count, Flag, Integer, Number, Text
from train.data import (
    PairConfig,
    TileSet,
    agree,
    crop_to_multiple,
    pair_feed,
    reduce_by_area,
    to_tensor,
    upsample,
)
from train.errors import require
from train.loop import Losses, Run, construct, run_stage, save_part, train
from wsisr.errors import UsageError
from wsisr.models.files import PART_CLASSES, fill, load_state, network_class
from wsisr.models.light import FACTOR
from wsisr.models.networks import UNSHUFFLE, SwinIR, channels_last, fold_scale

PICTURES = 4
"""Number of validation tiles that are shown."""


PixelLoss = Literal["mse", "l1"]


@dataclass(frozen=True, config=STRICT_KEYS)
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

    batch: Count = 16
    crop: Count = 512
    scales: tuple[Integer, ...] = (4,)
    scale_weights: tuple[Number, ...] = (1.0,)
    architecture: Text = "SwinIR"
    model: dict[str, Any] = field(default_factory=dict)
    loss: PixelLoss = "mse"
    consistent: Flag = False
    init: Text = ""


def block_side(network: nn.Module) -> int:
    """Gives the pixels that the sides of a network's images are multiples of."""
    return UNSHUFFLE * network.window_size if isinstance(network, SwinIR) else FACTOR


def validation_psnr(model: nn.Module, tiles: TileSet, scales: tuple[int, ...]) -> dict[str, float]:
    """Measures the PSNR of restored tiles whose inputs are area means.

    Args:
        model: the restoration network.
        tiles: of validation.
        scales: integer factors.

    Returns:
        PSNR in dB by scale: of bicubic, of what the network restores, and of that image in
        agreement with the input, which is what `--model restore` gives.
    """
    figures: dict[str, float] = {}
    device = next(model.parameters()).device
    block = block_side(model)
    for scale in scales:
        errors: dict[str, list[float]] = {"bicubic": [], "network": [], "restore": []}
        for tile in tiles.pixels:
            hr = crop_to_multiple(to_tensor(tile[None]), math.lcm(block, scale))
            lr = reduce_by_area(hr, scale)
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
    """Trains, or goes on training; each validation writes restoration/.

    Raises:
        UsageError: there is no such architecture, or the crop does not suit it.
    """
    classes = PART_CLASSES["restoration"]
    if config.architecture not in classes:
        raise UsageError(
            f"stage1.architecture: {config.architecture!r} is not one of {', '.join(classes)}"
        )
    torch.manual_seed(config.loop.seed)
    made = construct(
        network_class("restoration", config.architecture), config.model, "stage1.model"
    )
    crop, block = config.crop, block_side(made)
    kind = config.architecture
    require(crop % block == 0, f"stage1.crop {crop}: must be a multiple of {block} for {kind}")
    network = cast(ModelMixin, made)
    if config.init:
        fill(network, starting_weights(Path(config.init)), config.init)
    train_restoration(config, run, network, config.loss, config.consistent)


def starting_weights(folder: Path) -> dict[str, Tensor]:
    """Reads the weights of a `restoration` part: what all scales share, no layer of detail."""
    state = fold_scale(load_state(folder), 0, None, str(folder))
    return {key: value for key, value in state.items() if not key.startswith("last_detail.")}


def train_restoration(
    config: PairConfig,
    run: Run,
    network: ModelMixin,
    loss: PixelLoss,
    consistent: bool,
    finish: Callable[[nn.Module], None] = lambda network: None,
) -> None:
    """Trains what of a network is not frozen on pairs; each validation writes restoration/.

    Args:
        config: pairs and loop.
        run: data, folder and limits.
        network: (B, 3, H, W) resized images -> restored ones.
        loss: see `Stage1Config`.
        consistent: see `Stage1Config`.
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
        scale, block = max(config.scales), block_side(averaged)
        hr = crop_to_multiple(to_tensor(val.pixels[:PICTURES]), math.lcm(block, scale))
        hr = hr[..., : config.crop, : config.crop]
        lr = reduce_by_area(hr, scale)
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
    """Runs the stage; returns its exit code."""
    return run_stage(__doc__, "stage1", Stage1Config, fit, arguments)
