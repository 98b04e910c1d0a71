"""Reads back what made the pixels of an output, as its writer noted it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import tifffile

from wsisr.pyramid.metadata import PROVENANCE_NAMESPACE
from wsisr.pyramid.ngff import OME_XML

LARGEST_XML = 16 << 20
BROKEN = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError),
    *(struct.error, ElementTree.ParseError, tifffile.TiffFileError),
)
"""What readers raise of files that are no output of wsisr, or broken."""


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Gives the provenance of an output of wsisr.

    Args:
        path: an OME-TIFF or the folder of an OME-Zarr.

    Returns:
        The record, in plain JSON values; None where the output has none, or cannot be read.
    """
    try:
        text = _ome_xml(path)
        if text is None or len(text) > LARGEST_XML:
            return None
        for annotation in ElementTree.fromstring(text).iter():
            if annotation.get("Namespace") == PROVENANCE_NAMESPACE:
                value = next((each.text for each in annotation if each.text), None)
                record = json.loads(value or "null")
                return record if isinstance(record, dict) else None
    except BROKEN:
        return None
    return None


def _ome_xml(path: Path) -> str | None:
    if path.is_dir():
        return (path / OME_XML).read_text(encoding="utf-8")
    with tifffile.TiffFile(path) as file:
        text: str | None = file.ome_metadata
    return text
