"""wsisr: super-resolution of whole-slide histology images with a dual-stage diffusion model."""

from wsisr.version import VERSION as __version__

__all__ = ["__version__"]
