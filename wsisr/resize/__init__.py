"""Every way in which wsisr makes an image smaller or larger, each of them once.

| operation | arithmetic | used for |
|---|---|---|
| `reduce_area` | uint8, any factor, grid at the slide's origin, half up | views of a slide |
| `halve` | uint8, 2x2, half up | the levels of a pyramid |
| `area_mean` | float32, whole factors, not rounded | comparison with an input |
| `area_downsample` | uint8, whole factors, OpenCV's rounding | the inputs of published figures |
| `halve_plane` | float64, 2x2, not rounded | MS-SSIM |
| `bicubic_upsample` | uint8, whole factors, OpenCV's fixed point | the bicubic baseline |
| `resize_to`, `shrink_within` | uint8, stretched to a size, OpenCV | pictures and networks |
| `area_matrix`, `cubic_matrix` | float32 weights | differentiable resizing of windows |

`reduce_area` and `area_downsample` round differently on purpose: the one is a rule of this
project, the same for every factor; the other is the rule by which all published figures were made.
Importing this package loads neither torch nor OpenCV.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
