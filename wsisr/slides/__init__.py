"""Slides in: one way to open any whole-slide image and to read any resolution of it."""

from wsisr.slides.base import Level, Slide
from wsisr.slides.opening import open_slide
from wsisr.slides.view import View, select_view

__all__ = ["Level", "Slide", "View", "open_slide", "select_view"]
