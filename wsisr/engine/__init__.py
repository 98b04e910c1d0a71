"""The stream of a run: prepare, read, compute, blend, write; see `upscale` in `run.py`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
