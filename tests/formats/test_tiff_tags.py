"""The numbers of TIFF against an independent table of them, that of tifffile."""

from __future__ import annotations

from enum import IntEnum

import pytest
import tifffile

from wsisr.formats import (
    Codec,
    FieldType,
    Photometric,
    PlanarConfiguration,
    Predictor,
    ResolutionUnit,
    TagId,
)

SAME = {
    "Codec.JPEG": tifffile.COMPRESSION.JPEG,
    "Codec.LZW": tifffile.COMPRESSION.LZW,
    "Codec.DEFLATE": tifffile.COMPRESSION.ADOBE_DEFLATE,
    "Codec.DEFLATE_OLD": tifffile.COMPRESSION.DEFLATE,
    "Codec.PACKBITS": tifffile.COMPRESSION.PACKBITS,
    "Codec.APERIO_J2K_YCBCR": tifffile.COMPRESSION.APERIO_JP2000_YCBC,
    "Codec.APERIO_J2K_RGB": tifffile.COMPRESSION.APERIO_JP2000_RGB,
    "Codec.JPEG2000": tifffile.COMPRESSION.JPEG2000,
    "Codec.ZSTD": tifffile.COMPRESSION.ZSTD,
    "Photometric.MIN_IS_WHITE": tifffile.PHOTOMETRIC.MINISWHITE,
    "Photometric.MIN_IS_BLACK": tifffile.PHOTOMETRIC.MINISBLACK,
    "Photometric.RGB": tifffile.PHOTOMETRIC.RGB,
    "Photometric.YCBCR": tifffile.PHOTOMETRIC.YCBCR,
    "PlanarConfiguration.INTERLEAVED": tifffile.PLANARCONFIG.CONTIG,
    "PlanarConfiguration.SEPARATE": tifffile.PLANARCONFIG.SEPARATE,
    "Predictor.HORIZONTAL": tifffile.PREDICTOR.HORIZONTAL,
    "ResolutionUnit.INCH": tifffile.RESUNIT.INCH,
    "ResolutionUnit.CENTIMETRE": tifffile.RESUNIT.CENTIMETER,
    "FieldType.ASCII": tifffile.DATATYPE.ASCII,
    "FieldType.RATIONAL": tifffile.DATATYPE.RATIONAL,
    "FieldType.LONG8": tifffile.DATATYPE.LONG8,
    "FieldType.IFD8": tifffile.DATATYPE.IFD8,
}
ENUMS: dict[str, type[IntEnum]] = {
    each.__name__: each
    for each in (Codec, FieldType, Photometric, PlanarConfiguration, Predictor, ResolutionUnit)
}


@pytest.mark.parametrize("name", SAME)
def test_values_are_those_of_the_format(name: str) -> None:
    kind, member = name.split(".")
    assert ENUMS[kind][member] == SAME[name]


@pytest.mark.parametrize("tag", TagId, ids=lambda tag: tag.name)
def test_tags_have_the_formats_names(tag: TagId) -> None:
    known = {"ICC_PROFILE": "InterColorProfile", "PHOTOMETRIC": "PhotometricInterpretation"}
    wanted = known.get(tag.name, tag.name.replace("_", ""))
    assert tifffile.TIFF.TAGS[tag].lower() == wanted.lower()
