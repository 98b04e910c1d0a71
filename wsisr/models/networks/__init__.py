"""The networks' definitions: stage 1, autoencoders, ControlNet, and changes for each scale."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
