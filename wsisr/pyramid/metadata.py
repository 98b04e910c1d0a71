"""Writes the OME-XML of a pyramid (Open Microscopy Environment schema 2016-06).

Element order follows the schema: readers validate it, and QuPath takes the magnification only
from an Instrument's Objective that the Image refers to. Lengths carry no unit attribute, since
micrometre is the schema's default and an escaped micro sign makes Bio-Formats drop the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from wsisr.pyramid.spec import PyramidSpec

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
PROVENANCE_NAMESPACE = "wsisr/provenance"
CREATOR = "wsisr"

# what XML 1.0 cannot carry, not even escaped
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def ome_xml(spec: PyramidSpec, provenance: Mapping[str, Any], *, tiff: bool = True) -> str:
    """Writes the OME-XML of a pyramid: image 0 is the pyramid, then the associated images.

    Args:
        spec: the pyramid.
        provenance: what made the pixels; it becomes an annotation of the image, if it is not empty.
        tiff: write TiffData elements, for the images stand in the main IFD chain in the same
            order; without, the form that `OME/METADATA.ome.xml` of an OME-Zarr takes.

    Returns:
        The document, to be stored as UTF-8.
    """
    images = [_pyramid_image(spec, bool(provenance), tiff)]
    for number, (name, image) in enumerate(spec.associated.items(), start=1):
        height, width = image.shape[:2]
        images.append(
            f'<Image ID="Image:{number}" Name={_attribute(name)}>'
            f"{_pixels(number, width, height, '', tiff)}</Image>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{SCHEMA}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{SCHEMA} {SCHEMA}/ome.xsd" Creator="{CREATOR}">'
        '<Instrument ID="Instrument:0"><Objective ID="Objective:0" '
        f'NominalMagnification="{_number(spec.magnification)}"/></Instrument>'
        f"{''.join(images)}{_annotations(provenance)}</OME>"
    )


def _pyramid_image(spec: PyramidSpec, annotated: bool, tiff: bool) -> str:
    size = f'PhysicalSizeX="{_number(spec.mpp)}" PhysicalSizeY="{_number(spec.mpp)}" '
    reference = '<AnnotationRef ID="Annotation:0"/>' if annotated else ""
    return (
        f'<Image ID="Image:0" Name={_attribute(spec.name or "pyramid")}>'
        '<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>'
        f"{_stage_label(spec)}"
        f"{_pixels(0, spec.width, spec.height, size, tiff, spec.channels, _planes(spec, tiff))}"
        f"{reference}</Image>"
    )


def _stage_label(spec: PyramidSpec) -> str:
    """Says where in its slide a region lies."""
    return "" if spec.position is None else f'<StageLabel Name="region" {_place(spec, "")}/>'


def _planes(spec: PyramidSpec, tiff: bool) -> str:
    """Says the same of each plane, which is where most readers look for it."""
    if spec.position is None:
        return ""
    count = len(spec.channels) if not tiff else 1
    place = _place(spec, "Position")
    return "".join(f'<Plane TheZ="0" TheT="0" TheC="{i}" {place}/>' for i in range(count))


def _place(spec: PyramidSpec, prefix: str) -> str:
    # in mm, whose symbol is ASCII: an escaped micro sign would cost the whole document
    return " ".join(
        f'{prefix}{axis}="{value / 1000:.9g}" {prefix}{axis}Unit="mm"'
        for axis, value in zip("XY", spec.position or (), strict=False)
    )


def _pixels(
    image: int,
    width: int,
    height: int,
    physical: str,
    tiff: bool,
    names: tuple[str, ...] = ("Red", "Green", "Blue"),
    planes: str = "",
) -> str:
    tiff_data = f'<TiffData IFD="{image}" PlaneCount="1"/>' if tiff else "<MetadataOnly/>"
    if len(names) == 1:
        order, interleaved = "XYCZT", ""
        channels = (
            f'<Channel ID="Channel:{image}:0" Name={_attribute(names[0])} SamplesPerPixel="1" '
            'Color="-1"><LightPath/></Channel>'
        )
    elif tiff:
        order = "XYCZT"
        channels = f'<Channel ID="Channel:{image}:0" SamplesPerPixel="3"><LightPath/></Channel>'
        interleaved = 'Interleaved="true" '
    else:
        order, interleaved = "XYCZT", ""
        channels = "".join(
            f'<Channel ID="Channel:{image}:{i}" Name="{name}" SamplesPerPixel="1" Color="{colour}">'
            "<LightPath/></Channel>"
            for i, (name, colour) in enumerate(_OME_COLOURS)
        )
    return (
        f'<Pixels ID="Pixels:{image}" DimensionOrder="{order}" Type="uint8" '
        f'SignificantBits="8" {interleaved}BigEndian="false" SizeX="{width}" SizeY="{height}" '
        f'SizeZ="1" SizeC="{len(names)}" SizeT="1" {physical}>'
        f"{channels}{tiff_data}{planes}</Pixels>"
    )


# the schema's Color is a signed 32-bit RGBA
_OME_COLOURS = (("Red", -16776961), ("Green", 16711935), ("Blue", 65535))


def _annotations(provenance: Mapping[str, Any]) -> str:
    if not provenance:
        return ""
    # what JSON cannot hold is written as its str()
    record = json.dumps(provenance, sort_keys=True, ensure_ascii=False, default=str)
    text = escape(_clean(record))
    return (
        '<StructuredAnnotations><CommentAnnotation ID="Annotation:0" '
        f'Namespace="{PROVENANCE_NAMESPACE}"><Value>{text}</Value></CommentAnnotation>'
        "</StructuredAnnotations>"
    )


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
