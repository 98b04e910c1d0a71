"""Tells whether an ICC profile belongs to the pixels that are read."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger(__name__)

HEADER_BYTES = 128


def fitting_profile(path: Path, profile: bytes | None) -> bytes | None:
    """Gives a profile that describes RGB pixels, as all that are read here are.

    Args:
        path: the file, for the log.
        profile: what the file stores, None where it stores none.

    Returns:
        The profile; None where it describes other pixels (grey, CMYK) or is no whole profile
        (ICC.1:2022, section 7.2: size, colour space and signature of the header).
    """
    if not profile:
        return None
    whole = len(profile) >= HEADER_BYTES and profile[36:40] == b"acsp"
    if whole and int.from_bytes(profile[:4], "big") <= len(profile) and profile[16:20] == b"RGB ":
        return profile
    log.info("%s: its ICC profile is damaged or not one of RGB pixels, and is left out", path)
    return None
