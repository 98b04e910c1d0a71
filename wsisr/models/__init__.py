"""The dual-stage model: restoration, controllable diffusion, sampling, colour, consistency."""

from wsisr.models.dualstage import DualStage, Settings
from wsisr.models.loading import (
    DEFAULT_MODEL,
    SHIPPED,
    ModelCard,
    from_pretrained,
    load_upscaler,
    pick_device,
    save_pretrained,
)
from wsisr.models.windows import Bicubic, Upscaler, WindowInput

__all__ = [
    "DEFAULT_MODEL",
    "SHIPPED",
    "Bicubic",
    "DualStage",
    "ModelCard",
    "Settings",
    "Upscaler",
    "WindowInput",
    "from_pretrained",
    "load_upscaler",
    "pick_device",
    "save_pretrained",
]
