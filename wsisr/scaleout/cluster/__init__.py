"""Runs slides, and bands of one huge slide, on a cluster of dask.distributed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
