"""Networks in the key layout of latent-diffusion (CompVis, Stable Diffusion, ControlNet).

Each function takes the tensors of one network under their original names and gives the diffusers
class's arguments, read off the names and shapes, and new names. Nothing is dropped: a key without
a place is an error. Sizes are free; what shapes do not tell is fixed in the family: 32 groups in
every normalisation, heads of 64 channels (Stable Diffusion 2), a latent scale of 0.18215.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wsisr.errors import ModelError
from wsisr.models.files import count_blocks, require

HEAD_CHANNELS = 64
GROUPS = 32
LATENT_SCALE = 0.18215
SD1_CONTEXT = 768

Tensors = Mapping[str, Tensor]

PREFIXES = {
    "control_model.": "controlnet",
    "preprocess_model.": "restoration",
    "cond_encoder.": "condition_encoder",
    "model.diffusion_model.": "unet",
    "first_stage_model.": "vae",
    "cond_stage_model.model.": "prompt",
}
"""Where a full checkpoint keeps the networks of a model."""

SIGNATURES = {
    "zero_convs.0.0.weight": "controlnet",
    "output_blocks.0.0.in_layers.2.weight": "unet",
    "encoder.down.0.block.0.conv1.weight": "vae",
    "conv_first.1.weight": "restoration",
}
"""A key that tells what a checkpoint of a single network is."""

UNUSED = {
    "model_ema.": "running averages, kept for training",
    "first_stage_model.loss.": "loss of the autoencoder's training",
}
SCHEDULE = "noise schedule, which model.json describes"
SCHEDULE_KEYS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
)

UNET_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
VAE_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


@dataclass(frozen=True)
class Network:
    """A network ready for diffusers.

    Attributes:
        config: arguments of its class.
        names: original key -> new key.
        tensors: new key -> tensor.
    """

    config: Mapping[str, Any]
    names: Mapping[str, str]
    tensors: Tensors


@dataclass(frozen=True)
class Split:
    """A checkpoint's tensors by the network they belong to.

    Attributes:
        prefixes: part -> what its keys began with.
        parts: part -> its tensors, without the prefix.
        unused: reason -> keys that a model has no use for.
        unknown: keys of neither kind.
    """

    prefixes: Mapping[str, str]
    parts: Mapping[str, Tensors]
    unused: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]


def split(tensors: Tensors) -> Split:
    """Sorts the tensors of a full checkpoint, or of one network, by the part they belong to."""
    for signature, part in SIGNATURES.items():
        if signature in tensors:
            return Split({part: ""}, {part: tensors}, {}, ())
    parts: dict[str, dict[str, Tensor]] = {}
    prefixes = {part: prefix for prefix, part in PREFIXES.items()}
    unused: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    for key, value in tensors.items():
        reason = next((why for start, why in UNUSED.items() if key.startswith(start)), None)
        if key in SCHEDULE_KEYS:
            reason = SCHEDULE
        prefix = next((start for start in PREFIXES if key.startswith(start)), None)
        if reason is not None:
            unused[reason] = (*unused.get(reason, ()), key)
        elif prefix is not None:
            parts.setdefault(PREFIXES[prefix], {})[key[len(prefix) :]] = value
        else:
            unknown.append(key)
    return Split({p: prefixes[p] for p in parts}, parts, unused, tuple(unknown))


@dataclass(frozen=True)
class _Level:
    """One resolution of a UNet's encoder."""

    width: int
    layers: int
    attention: bool


def convert_unet(tensors: Tensors) -> Network:
    """Converts `model.diffusion_model.*` to diffusers' `UNet2DConditionModel`.

    Args:
        tensors: of the network, without the prefix.

    Raises:
        ModelError: keys are missing or left over, or it is a network of another family.
    """
    modules = {**_ENDS, "out.0": "conv_norm_out", "out.2": "conv_out"}
    levels, encoder = _encoder(tensors)
    attention, decoder = _decoder(tensors, levels)
    config = {
        **_common_config(tensors, levels),
        "out_channels": require(tensors, "out.2.weight").shape[0],
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention),
    }
    return _rename(tensors, config, {**modules, **encoder, **_MIDDLE, **decoder})


def convert_controlnet(tensors: Tensors) -> Network:
    """Converts `control_model.*` to `LatentControlNet`.

    Args:
        tensors: of the network, without the prefix.

    Raises:
        ModelError: keys are missing or left over, or its condition is an image (an
            `input_hint_block`) and not a latent.
    """
    if any(key.startswith("input_hint_block.") for key in tensors):
        raise ModelError(
            "a ControlNet whose condition is an image (input_hint_block), not the latent of one; "
            "it is of another family"
        )
    levels, encoder = _encoder(tensors)
    modules = {**_ENDS, **encoder, **_MIDDLE, "middle_block_out.0": "controlnet_mid_block"}
    for index in range(count_blocks(tensors, "zero_convs.")):
        modules[f"zero_convs.{index}.0"] = f"controlnet_down_blocks.{index}"
    return _rename(tensors, _common_config(tensors, levels), modules)


def convert_vae(tensors: Tensors, scale: float = LATENT_SCALE) -> Network:
    """Converts `first_stage_model.*` to diffusers' `AutoencoderKL`.

    Args:
        tensors: of the network, without the prefix.
        scale: of its latents, 1 over their standard deviation.

    Raises:
        ModelError: keys are missing or left over.
    """
    modules = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    levels = count_blocks(tensors, "encoder.down.")
    if not levels or count_blocks(tensors, "decoder.up.") != levels:
        raise ModelError("an autoencoder whose encoder and decoder differ in their levels")
    for side, group, size_change in (
        ("encoder", "down", "downsample"),
        ("decoder", "up", "upsample"),
    ):
        for name in ("conv_in", "conv_out"):
            modules[f"{side}.{name}"] = f"{side}.{name}"
        modules[f"{side}.norm_out"] = f"{side}.conv_norm_out"
        for level in range(levels):
            # decoder.up counts from the full resolution, diffusers from the latent's
            new = f"{side}.{group}_blocks.{level if group == 'down' else levels - 1 - level}"
            old = f"{side}.{group}.{level}"
            for layer in range(count_blocks(tensors, f"{old}.block.")):
                modules |= _expand(f"{old}.block.{layer}", f"{new}.resnets.{layer}", VAE_RESNET)
            modules[f"{old}.{size_change}.conv"] = f"{new}.{size_change}rs.0.conv"
        for layer in (1, 2):
            new = f"{side}.mid_block.resnets.{layer - 1}"
            modules |= _expand(f"{side}.mid.block_{layer}", new, VAE_RESNET)
        new = f"{side}.mid_block.attentions.0"
        modules |= _expand(f"{side}.mid.attn_1", new, VAE_ATTENTION)
    layers = count_blocks(tensors, "encoder.down.0.block.")
    config = {
        "in_channels": require(tensors, "encoder.conv_in.weight").shape[1],
        "out_channels": require(tensors, "decoder.conv_out.weight").shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(
            require(tensors, f"encoder.down.{level}.block.0.conv1.weight").shape[0]
            for level in range(levels)
        ),
        "layers_per_block": layers,
        "latent_channels": require(tensors, "post_quant_conv.weight").shape[1],
        "norm_num_groups": GROUPS,
        "scaling_factor": scale,
    }
    network = _rename(tensors, config, modules)
    # attention as 1x1 convolutions there, as linear layers here
    flat = {
        key: value.flatten(1) if ".attentions." in key and value.ndim == 4 else value
        for key, value in network.tensors.items()
    }
    return Network(config, network.names, flat)


CONVERTERS: dict[str, Callable[[Tensors], Network]] = {
    "unet": convert_unet,
    "controlnet": convert_controlnet,
    "vae": convert_vae,
}


def _expand(old: str, new: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{old}.{a}": f"{new}.{b}" for a, b in names.items()}


_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
}
_MIDDLE = {
    **_expand("middle_block.0", "mid_block.resnets.0", UNET_RESNET),
    "middle_block.1": "mid_block.attentions.0",
    **_expand("middle_block.2", "mid_block.resnets.1", UNET_RESNET),
}


def _encoder(tensors: Tensors) -> tuple[list[_Level], dict[str, str]]:
    """Finds the levels of the encoder, and its modules' names (old -> new)."""
    modules: dict[str, str] = {}
    levels: list[_Level] = []
    width, layers, attention = 0, 0, False
    for block in range(1, count_blocks(tensors, "input_blocks.")):
        old, new = f"input_blocks.{block}", f"down_blocks.{len(levels)}"
        if f"{old}.0.op.weight" in tensors:
            modules[f"{old}.0.op"] = f"{new}.downsamplers.0.conv"
            levels.append(_Level(width, layers, attention))
            layers, attention = 0, False
            continue
        width = require(tensors, f"{old}.0.in_layers.2.weight").shape[0]
        modules |= _expand(f"{old}.0", f"{new}.resnets.{layers}", UNET_RESNET)
        if f"{old}.1.norm.weight" in tensors:
            attention = True
            modules[f"{old}.1"] = f"{new}.attentions.{layers}"
        layers += 1
    levels.append(_Level(width, layers, attention))
    return levels, modules


def _decoder(tensors: Tensors, levels: list[_Level]) -> tuple[list[bool], dict[str, str]]:
    """Finds which levels of the decoder attend, from the middle on, and its modules' names."""
    modules: dict[str, str] = {}
    attends = [False] * len(levels)
    per_level = levels[0].layers + 1
    for block in range(count_blocks(tensors, "output_blocks.")):
        level, layer = divmod(block, per_level)
        if level == len(levels):
            raise ModelError(f"a decoder of more than {per_level * len(levels)} blocks")
        old, new = f"output_blocks.{block}", f"up_blocks.{level}"
        modules |= _expand(f"{old}.0", f"{new}.resnets.{layer}", UNET_RESNET)
        attention = f"{old}.1.norm.weight" in tensors
        if attention:
            attends[level] = True
            modules[f"{old}.1"] = f"{new}.attentions.{layer}"
        # the upsampler follows the attention, where there is one
        modules[f"{old}.{2 if attention else 1}.conv"] = f"{new}.upsamplers.0.conv"
    return attends, modules


def _common_config(tensors: Tensors, levels: list[_Level]) -> dict[str, Any]:
    """Gives the arguments that a UNet and its ControlNet share."""
    context = require(tensors, "middle_block.1.transformer_blocks.0.attn2.to_k.weight").shape[1]
    if context == SD1_CONTEXT:
        raise ModelError("of Stable Diffusion 1 (text of width 768); wsisr takes version 2 only")
    if len({level.layers for level in levels}) != 1:
        raise ModelError("a network whose levels differ in their number of blocks")
    widths = tuple(level.width for level in levels)
    return {
        "in_channels": require(tensors, "input_blocks.0.0.weight").shape[1],
        "down_block_types": tuple(
            "CrossAttnDownBlock2D" if level.attention else "DownBlock2D" for level in levels
        ),
        "block_out_channels": widths,
        "layers_per_block": levels[0].layers,
        "norm_num_groups": GROUPS,
        "cross_attention_dim": context,
        # diffusers' name for the number of heads
        "attention_head_dim": tuple(max(1, width // HEAD_CHANNELS) for width in widths),
        "use_linear_projection": require(tensors, "middle_block.1.proj_in.weight").ndim == 2,
    }


def _rename(tensors: Tensors, config: Mapping[str, Any], modules: Mapping[str, str]) -> Network:
    names: dict[str, str] = {}
    for key in tensors:
        old = next((prefix for prefix in _prefixes(key) if prefix in modules), None)
        if old is None:
            raise ModelError(f"{key} has no place in this family of networks")
        names[key] = modules[old] + key[len(old) :]
    return Network(config, names, {names[key]: value for key, value in tensors.items()})


def _prefixes(key: str) -> Iterator[str]:
    """Yields the modules a tensor lies in, from the inside: `a.b`, `a` of `a.b.c`."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key
