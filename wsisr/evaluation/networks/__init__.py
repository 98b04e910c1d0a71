"""Networks of learned measures: short definitions that take the published weights as they are.

Each is proven equal to an independent computation in the tests. Sizes come from the weights, so
that small random ones test the same code.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
