"""Judging super-resolved pixels: against a real scan, against their input, and alone.

Import what is needed from the modules of this package; each states its conventions, and
`wsisr.evaluation.measures.table` lists every measure with its name, direction and convention.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
