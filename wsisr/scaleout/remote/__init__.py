"""Slides and outputs behind URLs: slides are staged into a bounded cache, outputs kept track of."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
