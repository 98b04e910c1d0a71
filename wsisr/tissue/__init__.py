"""Tissue and glass: finding them on a slide, the mask that says where they are, masks from files.

`find` has the algorithm, `mask` what it yields, `files` reads masks that others drew.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
