"""Models as folders: their networks made, and written. How a folder looks: see `layout`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from wsisr.errors import ModelError
from wsisr.files import write_atomic
from wsisr.models.files.card import ModelCard, card_text, read_card
from wsisr.models.files.layout import CONFIGS, class_name
from wsisr.models.files.parts import empty_module, network_class

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from wsisr.models.networks import LatentControlNet, Vae


def build_parts(config: str) -> dict[str, nn.Module]:
    """Makes the networks of a description, by part, their parameters not allocated.

    Args:
        config: a name in `CONFIGS`.

    Raises:
        ModelError: no such description.
    """
    if config not in CONFIGS:
        raise ModelError(f"{config}: no such configuration; there is {', '.join(CONFIGS)}")
    folder = CONFIGS[config]
    parts = read_card(folder).parts
    return {part: empty_module(folder / part, network_class(part, parts[part])) for part in parts}


def save_pretrained(
    folder: Path, card: ModelCard, parts: Mapping[str, nn.Module], prompt: Tensor | None = None
) -> None:
    """Writes a model folder; floating-point weights keep the type they have in `parts`.

    The model.json of a model that is there goes first and the new one comes last, so what an error
    or a kill leaves behind cannot be loaded.

    Args:
        folder: to write; made if absent.
        card: the contents of model.json.
        parts: part -> network.
        prompt: (tokens, width), the blank prompt's embedding.

    Raises:
        OSError: it cannot be written, for instance on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").unlink(missing_ok=True)
    try:
        for part, module in parts.items():
            # diffusers only logs that a file is in the way
            (folder / part).mkdir(exist_ok=True)
            cast(Any, module).save_pretrained(folder / part, safe_serialization=True)
        if prompt is not None:
            (folder / "prompt").mkdir(exist_ok=True)
            save_file({"prompt": prompt.contiguous()}, folder / "prompt" / "prompt.safetensors")
    except SafetensorError as error:  # its way to say that a disk is full
        raise OSError(str(error)) from error
    write_atomic(folder / "model.json", card_text(card))


def part_class(folder: Path, card: ModelCard, part: str) -> type[nn.Module]:
    """Imports the class that a model's card names for a part.

    Args:
        folder: of the model, for the error.
        card: of the model.
        part: a key of `card.parts`.

    Raises:
        ModelError: no such part or no such class.
    """
    return network_class(part, class_name(folder, card.parts, part))


def check_fit(
    folder: Path,
    vae: Vae,
    unet: UNet2DConditionModel,
    controlnet: LatentControlNet,
    prompt: Tensor | None,
) -> None:
    """Checks that the parts of stage 2 fit together.

    Args:
        folder: of the model, for the error.
        vae: the autoencoder.
        unet: the UNet.
        controlnet: the ControlNet.
        prompt: (tokens, width), the blank prompt's embedding.

    Raises:
        ModelError: their channels or widths differ, or there is no prompt.
    """
    channels = vae.config.latent_channels
    if unet.config.in_channels != channels or controlnet.config.in_channels != 2 * channels:
        raise ModelError(
            f"{folder}: the autoencoder has {channels} latent channels, unet takes "
            f"{unet.config.in_channels}, controlnet {controlnet.config.in_channels} "
            f"(needs {channels} and {2 * channels})"
        )
    if tuple(unet.config.block_out_channels) != tuple(controlnet.config.block_out_channels):
        raise ModelError(
            f"{folder}: unet has {tuple(unet.config.block_out_channels)} channels, controlnet "
            f"{tuple(controlnet.config.block_out_channels)}; the base is not the one it steers"
        )
    check_prompt(folder, prompt, unet.config.cross_attention_dim)


def check_prompt(folder: Path, prompt: Tensor | None, width: int) -> None:
    """Checks the shape of the blank prompt's embedding.

    Args:
        folder: of the model, for the error.
        prompt: (tokens, width), or None if there is none.
        width: how many numbers a token needs.

    Raises:
        ModelError: there is none, or it is of another shape.
    """
    if prompt is None or prompt.ndim != 2 or prompt.shape[1] != width:
        raise ModelError(f"{folder / 'prompt'}: needs a tensor `prompt` of shape (tokens, {width})")
