"""Tile codecs of the OME-TIFF writer as data: TIFF tags beside the function that encodes.

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

from wsisr.pyramid.spec import PyramidSpec

GREY, RGB, YCBCR = 1, 2, 6
Image = NDArray[np.uint8]

# its stubs know bytes alone, while arrays save a copy
_codecs: Any = imagecodecs


@dataclass(frozen=True)
class Codec:
    """TIFF tags of a way to store a tile, and `encode`: uint8 (rows, columns, samples) -> bytes."""

    compression: int
    photometric: int
    encode: Callable[[Image], bytes]
    subsampling: tuple[int, int] | None = None
    predictor: int = 1


def tiff_codec(spec: PyramidSpec) -> Codec:
    """The codec that `spec` asks for; its `encode` may be called from several threads."""
    quality = spec.quality
    plain = RGB if spec.samples == 3 else GREY
    if spec.compression == "deflate":
        return Codec(8, plain, _deflate, predictor=2)
    if spec.compression == "zstd":
        return Codec(50000, plain, _zstd, predictor=2)
    if spec.compression == "jpeg2000":
        return Codec(33005, plain, partial(_jpeg2000, quality=quality))
    if spec.samples == 1:
        return Codec(7, GREY, partial(_grey_jpeg, quality=quality))
    if spec.subsampling == "444":
        return Codec(7, RGB, partial(_jpeg, quality=quality, outcolorspace="rgb", sampling="444"))
    encode = partial(_jpeg, quality=quality, outcolorspace="ycbcr", sampling=spec.subsampling)
    return Codec(7, YCBCR, encode, subsampling={"420": (2, 2), "422": (2, 1)}[spec.subsampling])


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
    """`pixels` grown to (tile, tile, samples) by repeating its last row and column."""
    rows, cols = pixels.shape[:2]
    if (rows, cols) == (tile, tile):
        return np.ascontiguousarray(pixels)
    return np.pad(pixels, ((0, tile - rows), (0, tile - cols), (0, 0)), mode="edge")
