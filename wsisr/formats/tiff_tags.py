"""Names the tags of a TIFF file and the values that they take.

The slide reader, the pyramid writer and the conversion share these names.

References:
    TIFF 6.0; TIFF Technical Note 2 (JPEG); BigTIFF (libtiff); OME-TIFF 6 (SubIFDs); Aperio's
    codes of JPEG 2000 (33003, 33005); libtiff's registry of compressions (34712, 50000).
"""

from __future__ import annotations

from enum import IntEnum


class TagId(IntEnum):
    """The tags that describe an image and where its pixels are stored."""

    NEW_SUBFILE_TYPE = 254
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    IMAGE_DESCRIPTION = 270
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR_CONFIGURATION = 284
    RESOLUTION_UNIT = 296
    SOFTWARE = 305
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    SUB_IFDS = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    YCBCR_SUBSAMPLING = 530
    REFERENCE_BLACK_WHITE = 532
    ICC_PROFILE = 34675


class FieldType(IntEnum):
    """The types of a tag's values."""

    ASCII = 2
    SHORT = 3
    LONG = 4
    RATIONAL = 5
    UNDEFINED = 7
    LONG8 = 16
    IFD8 = 18


class Codec(IntEnum):
    """The compressions that are decoded or written here, as the tag `COMPRESSION` names them."""

    NONE = 1
    LZW = 5
    JPEG = 7
    DEFLATE = 8
    DEFLATE_OLD = 32946
    PACKBITS = 32773
    APERIO_J2K_YCBCR = 33003
    APERIO_J2K_RGB = 33005
    JPEG2000 = 34712
    ZSTD = 50000


class Photometric(IntEnum):
    """The colour models of stored samples."""

    MIN_IS_WHITE = 0
    MIN_IS_BLACK = 1
    RGB = 2
    YCBCR = 6


class SubfileType(IntEnum):
    """What an image is within its file, as the tag `NEW_SUBFILE_TYPE` says it."""

    MAIN_IMAGE = 0
    REDUCED_IMAGE = 1
    TRANSPARENCY_MASK = 4


class PlanarConfiguration(IntEnum):
    """How the samples of a pixel are stored: together, or each in its own plane."""

    INTERLEAVED = 1
    SEPARATE = 2


class Predictor(IntEnum):
    """What is subtracted from a sample before it is compressed without loss."""

    NONE = 1
    HORIZONTAL = 2


class ResolutionUnit(IntEnum):
    """The units of the tags `X_RESOLUTION` and `Y_RESOLUTION`."""

    NONE = 1
    INCH = 2
    CENTIMETRE = 3


class Alpha(IntEnum):
    """What the first extra sample of a pixel is, as the tag `EXTRA_SAMPLES` says it.

    Colours are multiplied by an associated alpha already, and not by a straight one.
    """

    NONE = 0
    ASSOCIATED = 1
    STRAIGHT = 2
