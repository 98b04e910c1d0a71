"""The models: loading them by name, both stages, samplers, and what each window goes through."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
