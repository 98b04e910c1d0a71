"""The measures, and the table that registers them.

`table` lists every measure as a `Metric`, `selection` chooses and runs them, `sample` holds what
they are computed from; each other module has the functions of one family, with its conventions.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
