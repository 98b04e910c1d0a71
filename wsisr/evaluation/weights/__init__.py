"""Parameters of learned measures: which there are, where they lie, and how they are fetched.

The files of NAME lie in `WSISR_WEIGHTS/NAME/`; without that variable in the user's cache folder.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
