"""wsisr: super-resolution of whole-slide histology images with a dual-stage diffusion model."""

__version__ = "0.1.0"
