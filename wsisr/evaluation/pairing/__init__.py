"""What is compared with what: pairs of tiles from slides or folders, and their registration.

`locations` has what a pair is, `slides` and `folders` where pairs come from, `registration` brings
two scans onto one grid with the help of `features` and `shifts`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
