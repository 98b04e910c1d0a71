"""Encodes the tiles of an OME-TIFF: TIFF tags beside the function that encodes.

JPEG colour follows what every reader agrees on: 4:2:0 and 4:2:2 as YCbCr, and full chroma
resolution as an RGB stream, for a YCbCr stream at 4:4:4 is read with wrong colours by Bio-Formats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.formats import Codec, Photometric, Predictor
from wsisr.pyramid.spec import PyramidSpec

Image = NDArray[np.uint8]

_YCBCR_SUBSAMPLING = {"420": (2, 2), "422": (2, 1)}
# its stubs know bytes alone, while arrays save a copy
_codecs: Any = imagecodecs


@dataclass(frozen=True)
class TileCodec:
    """How a tile is stored: TIFF tags, and the function that encodes it.

    Attributes:
        compression: the compression that the tags name.
        photometric: the colour model that the tags name.
        encode: turns uint8 (rows, columns, samples) into the stored bytes.
        subsampling: horizontal and vertical chroma subsampling of YCbCr, None for other models.
        predictor: what is done to the samples before a lossless compression.
    """

    compression: Codec
    photometric: Photometric
    encode: Callable[[Image], bytes]
    subsampling: tuple[int, int] | None = None
    predictor: Predictor = Predictor.NONE


def tiff_codec(spec: PyramidSpec) -> TileCodec:
    """Picks the codec that a pyramid asks for.

    Args:
        spec: the pyramid; compression, quality, subsampling and channels count.

    Returns:
        The codec, whose `encode` may be called from several threads.
    """
    plain = Photometric.RGB if spec.samples == 3 else Photometric.MIN_IS_BLACK
    if spec.compression == "deflate":
        return TileCodec(Codec.DEFLATE, plain, _deflate, predictor=Predictor.HORIZONTAL)
    if spec.compression == "zstd":
        return TileCodec(Codec.ZSTD, plain, _zstd, predictor=Predictor.HORIZONTAL)
    if spec.compression == "jpeg2000":
        return TileCodec(Codec.APERIO_J2K_RGB, plain, partial(_jpeg2000, quality=spec.quality))
    return _jpeg_codec(spec)


def _jpeg_codec(spec: PyramidSpec) -> TileCodec:
    quality = spec.quality
    if spec.samples == 1:
        encode = partial(_grey_jpeg, quality=quality)
        return TileCodec(Codec.JPEG, Photometric.MIN_IS_BLACK, encode)
    if spec.subsampling == "444":
        encode = partial(_jpeg, quality=quality, outcolorspace="rgb", sampling="444")
        return TileCodec(Codec.JPEG, Photometric.RGB, encode)
    encode = partial(_jpeg, quality=quality, outcolorspace="ycbcr", sampling=spec.subsampling)
    factors = _YCBCR_SUBSAMPLING[spec.subsampling]
    return TileCodec(Codec.JPEG, Photometric.YCBCR, encode, subsampling=factors)


def _jpeg(pixels: Image, quality: int, outcolorspace: str, sampling: str) -> bytes:
    data: bytes = _codecs.jpeg8_encode(
        pixels, level=quality, colorspace="rgb", outcolorspace=outcolorspace, subsampling=sampling
    )
    return data


def _grey_jpeg(pixels: Image, quality: int) -> bytes:
    data: bytes = _codecs.jpeg8_encode(pixels[..., 0], level=quality)
    return data


def _jpeg2000(pixels: Image, quality: int) -> bytes:
    # OpenJPEG aims at a PSNR in dB; this line passes about where JPEG of that quality lands
    level = 0 if quality == 100 else 26 + quality / 6
    data: bytes = _codecs.jpeg2k_encode(
        pixels, level=level, codecformat="j2k", reversible=quality == 100, numthreads=1
    )
    return data


def _deflate(pixels: Image) -> bytes:
    data: bytes = _codecs.deflate_encode(_codecs.delta_encode(pixels, axis=1), level=6)
    return data


def _zstd(pixels: Image) -> bytes:
    data: bytes = _codecs.zstd_encode(_codecs.delta_encode(pixels, axis=1), level=3)
    return data


def padded(pixels: Image, tile: int) -> Image:
    """Grows a tile to its full size by repeating its last row and column.

    Args:
        pixels: uint8 (rows, columns, samples), at most `tile` a side.
        tile: side of the full tile in px.

    Returns:
        uint8 (tile, tile, samples), contiguous.
    """
    rows, cols = pixels.shape[:2]
    if (rows, cols) == (tile, tile):
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, tile - rows), (0, tile - cols), (0, 0)), mode="edge")
