"""The few loops that torch and numpy do slowly.

Each kernel has a plain reference and compiled versions that agree with it bit for bit, and one
function here that picks the version from where its data lies: numba on the CPU, Triton (optional)
on CUDA. `fit_blocks` works on finished bytes, which lie on the CPU, and has no Triton version.
A kernel is imported when it is first used, so who needs one alone waits for no other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
