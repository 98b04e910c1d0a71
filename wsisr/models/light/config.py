"""A network's config.json, and whether the light networks can do what it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAIN = (None, False)
"""Values by which a setting is left out."""

DIFFUSION: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "addition_embed_type": PLAIN,
    "attention_type": ("default",),
    "center_input_sample": PLAIN,
    "class_embed_type": PLAIN,
    "class_embeddings_concat": PLAIN,
    "controlnet_conditioning_channel_order": ("rgb",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": PLAIN,
    "downsample_padding": (1,),
    "dropout": (0,),
    "dual_cross_attention": PLAIN,
    "encoder_hid_dim": PLAIN,
    "encoder_hid_dim_type": PLAIN,
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "global_pool_conditions": PLAIN,
    "mid_block_only_cross_attention": PLAIN,
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "norm_eps": (1e-5,),
    "num_attention_heads": PLAIN,
    "num_class_embeds": PLAIN,
    "only_cross_attention": PLAIN,
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": PLAIN,
    "resnet_time_scale_shift": ("default",),
    "reverse_transformer_layers_per_block": PLAIN,
    "time_cond_proj_dim": PLAIN,
    "time_embedding_act_fn": PLAIN,
    "time_embedding_dim": PLAIN,
    "time_embedding_type": ("positional",),
    "timestep_post_act": PLAIN,
    "transformer_layers_per_block": (1,),
    "upcast_attention": PLAIN,
}
"""Settings of UNet and ControlNet -> the values that the light ones are made for."""
AUTOENCODER: Mapping[str, tuple[Any, ...]] = {
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
}
BLOCKS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


class Config(dict[str, Any]):
    """The settings of a network, as items and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def heads(self) -> list[int]:
        """Heads of attention at each resolution; diffusers calls them by the name of their size."""
        heads = self["attention_head_dim"]
        count = len(self["block_out_channels"])
        return [heads] * count if isinstance(heads, int) else list(heads)


def fits(config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> bool:
    """Tells whether a configuration asks for nothing but what is allowed.

    Args:
        config: setting -> value.
        allowed: setting -> its allowed values; what is not listed there is free.
    """
    known = all(config[name] in values for name, values in allowed.items() if name in config)
    return known and all(
        kind in kinds for name, kinds in BLOCKS.items() for kind in config.get(name, ())
    )
