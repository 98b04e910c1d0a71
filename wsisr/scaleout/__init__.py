"""Runs on several devices of one machine: worker processes that compute windows for one stream."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
