"""Reads TIFF files without another library: directories, layout, and pieces of pixels."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
