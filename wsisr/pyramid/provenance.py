"""Reads back what made the pixels of an output, as its writer noted it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tifffile

from wsisr.parsing import MAX_XML_CHARACTERS, parse_json, parse_xml, read_bytes
from wsisr.pyramid.metadata import PROVENANCE_NAMESPACE
from wsisr.pyramid.ngff import OME_XML


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Gives the provenance of an output of wsisr.

    Args:
        path: an OME-TIFF or the folder of an OME-Zarr.

    Returns:
        The record, in plain JSON values; None where the output has none, or cannot be read.
    """
    try:
        text = _ome_xml(path)
        if text is None:
            return None
        for annotation in parse_xml(text).iter():
            if annotation.get("Namespace") == PROVENANCE_NAMESPACE:
                value = next((each.text for each in annotation if each.text), None)
                record = parse_json(value or "null")
                return record if isinstance(record, dict) else None
    except Exception:  # tifffile raises errors of any kind for what is damaged
        return None
    return None


def _ome_xml(path: Path) -> str | None:
    if path.is_dir():
        return read_bytes(path / OME_XML, MAX_XML_CHARACTERS).decode()
    with tifffile.TiffFile(path) as file:
        text: str | None = file.ome_metadata
    return text
