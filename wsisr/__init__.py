"""Super-resolution of whole-slide histology images with a dual-stage diffusion model.

`upscale` takes a slide, `upscale_image` an array, `convert` a slide without a model; `evaluate` and
`measure` judge results against a real scan. Every name is imported when it is first used, so
`import wsisr` is quick. All errors raised on purpose are children of `WsisrError`.

Pixels that this package makes are computer-generated and not for primary diagnosis.
"""

import lazy_loader

from wsisr.caches import prepare_caches
from wsisr.version import VERSION

# before numba and torch are imported, which read their variables then
prepare_caches()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = [*__all__, "__version__"]
__version__ = VERSION
