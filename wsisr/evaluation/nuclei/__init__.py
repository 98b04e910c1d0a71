"""Nuclei: finding them, and how well two images agree on them.

`segmenter` has the protocol of what finds nuclei; `classical`, `learned` and `given` are three
ways; `agreement` compares two label images, and `unmatched` draws what only one of them has.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
