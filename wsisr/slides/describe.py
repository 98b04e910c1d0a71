"""Describes a slide, for `wsisr info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsisr.slides.opening import open_slide


def describe_slide(path: Path) -> dict[str, Any]:
    """Describes a slide in plain JSON values, without decoding any pixels.

    Args:
        path: the slide.

    Returns:
        Its size, levels, resolution and what else the file carries.

    Raises:
        SlideError: the file cannot be opened as a slide.
    """
    with open_slide(path) as slide:
        return {
            "file": str(path),
            "format": slide.vendor,
            "width": slide.width,
            "height": slide.height,
            "mpp": slide.mpp,
            "magnification": slide.magnification,
            "levels": [[level.width, level.height, level.downsample] for level in slide.levels],
            "icc_profile": None if slide.icc_profile is None else len(slide.icc_profile),
            "associated": sorted(slide.associated),
            "background": list(slide.background),
        }
