"""The report on a cohort: as a table, as JSON, and as a page to look at."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
