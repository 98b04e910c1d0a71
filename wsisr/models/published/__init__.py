"""Models that others published: conversion, Stable Diffusion as a base, single networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
