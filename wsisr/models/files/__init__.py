"""Model folders and files of weights: cards, parts, and their safe and strict reading."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
