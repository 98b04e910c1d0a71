"""Judges super-resolved pixels: against a real scan, against their input, and alone.

`evaluate` compares slides or folders of tiles and writes a report, `measure` compares arrays. Every
measure stands in `wsisr.evaluation.measures.METRICS` with its name, direction and convention.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
