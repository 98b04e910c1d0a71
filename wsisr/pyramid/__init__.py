"""Writes tiled pyramids, OME-TIFF and OME-Zarr: streamed, complete or resumable."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
