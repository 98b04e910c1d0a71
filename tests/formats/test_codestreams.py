"""Headers of JPEG and JPEG 2000 streams, as encoders write them and as damage leaves them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsisr.formats import (
    ADOBE_RGB,
    DamagedPieceError,
    declares_colour_space,
    j2k_header,
    jpeg_header,
    jpeg_size,
    subsampled_j2k,
)
from wsisr.formats.codestreams import jpeg_segments

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
SAMPLING = {
    "420": ((2, 2), (1, 1), (1, 1)),
    "422": ((2, 1), (1, 1), (1, 1)),
    "444": ((1, 1), (1, 1), (1, 1)),
}


def jpeg(**options: object) -> bytes:
    return imagecodecs.jpeg8_encode(PIXELS, colorspace="rgb", **options)


@pytest.mark.parametrize("subsampling", SAMPLING)
def test_a_jpeg_header_is_read(subsampling: str) -> None:
    header = jpeg_header(jpeg(outcolorspace="ycbcr", subsampling=subsampling))
    assert (header.width, header.height) == (64, 48)
    assert header.sequential
    assert header.sampling == SAMPLING[subsampling]
    assert header.adobe_transform is None
    assert jpeg_size(jpeg()) == (64, 48)


def test_grey_has_one_component() -> None:
    assert jpeg_header(imagecodecs.jpeg8_encode(PIXELS[..., 0].copy())).sampling == ((1, 1),)


def test_adobes_marker_is_read() -> None:
    stream = jpeg(outcolorspace="rgb", subsampling="444")
    stream = stream[:2] + ADOBE_RGB + stream[2:]
    assert jpeg_header(stream).adobe_transform == 0
    assert declares_colour_space(stream, None)


def test_progressive_streams_are_told_apart() -> None:
    stream = bytearray(jpeg())
    stream[stream.index(b"\xff\xc0") + 1] = 0xC2
    assert not jpeg_header(bytes(stream)).sequential


def test_fill_bytes_before_a_marker_are_skipped() -> None:
    stream = jpeg()
    assert jpeg_header(stream[:2] + b"\xff\xff" + stream[2:]) == jpeg_header(stream)


def test_the_colour_space_may_be_declared_by_the_tables() -> None:
    stream = jpeg(outcolorspace="ycbcr")
    bare = stream[:2] + b"".join(
        b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content
        for marker, content in jpeg_segments(stream)
        if marker != 0xE0
    )
    assert not declares_colour_space(bare, None)
    assert declares_colour_space(bare, b"\xff\xd8" + ADOBE_RGB + b"\xff\xd9")


@given(data=st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\xff\x4f\xff\x51"):
        stream = start + data
        declares_colour_space(stream, stream)
        subsampled_j2k(stream)
        for read in (jpeg_header, j2k_header):
            try:
                read(stream)
            except DamagedPieceError:
                continue


def test_a_j2k_header_is_read() -> None:
    stream = imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k")
    header = j2k_header(stream)
    assert (header.width, header.height) == (64, 48)
    assert header.steps == ((1, 1),) * 3
    assert not subsampled_j2k(stream)
