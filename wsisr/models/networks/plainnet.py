"""A convolutional restoration: residual blocks at a quarter of the output resolution.

Trained by L1 it is stage 1 of the shipped model. Trained with an adversary it is the plain
baseline, what a super-resolution network without diffusion does with the same data (EDSR, Lim et
al. 2017, in the role of Real-ESRGAN's generator, Wang et al. 2021). Like `SwinIR` it takes the
low-resolution image resized to the target size, so that one set of weights serves all scales, and
it stands in a model folder as the `restoration` part.

The features of the network that was trained with an adversary hold what L1 asks for, too: one
convolution reads either image out of them. With `detail` a network has both, its image by L1 and
the detail that only an adversary asks for, where stage 2 starts.
"""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin

from wsisr.models.light import PlainLayers


class PlainNet(PlainLayers, ModelMixin, ConfigMixin):
    """The network as it is trained and saved; its layers are those of `PlainLayers`.

    Args:
        width: channels of the blocks.
        blocks: how many there are.
        detail: whether to have a second last layer, see `detail_of`.
    """

    @register_to_config
    def __init__(self, width: int = 64, blocks: int = 12, detail: bool = False) -> None:
        super().__init__()
        self.build(width, blocks, detail)
