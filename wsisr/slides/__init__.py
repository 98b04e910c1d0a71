"""Opens any whole-slide image and reads any resolution of it, in one way."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
