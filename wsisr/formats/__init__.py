"""Describes file formats as data: TIFF tags and their values, and headers of JPEG and JPEG 2000."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
