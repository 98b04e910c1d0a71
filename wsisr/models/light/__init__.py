"""Networks as they run at inference: diffusers' layers and names, without its seconds of import."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
