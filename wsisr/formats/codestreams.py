"""Reads what the headers of JPEG and JPEG 2000 streams declare, without decoding them.

References:
    JPEG: ITU-T T.81, annex B; JFIF: ITU-T T.871; Adobe's marker: ITU-T T.872.
    JPEG 2000: ITU-T T.800, annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""A whole segment that declares a JPEG stream to be RGB."""

_COMPONENT_BYTES = 3


class DamagedPieceError(Exception):
    """The bytes of a tile or strip do not decode to what the tags promise."""


class JpegMarker(IntEnum):
    """The markers of a JPEG stream that are looked at here."""

    START_OF_FRAME_BASELINE = 0xC0
    START_OF_FRAME_SEQUENTIAL = 0xC1
    HUFFMAN_TABLES = 0xC4
    EXTENSION = 0xC8
    ARITHMETIC_CONDITIONING = 0xCC
    LAST_START_OF_FRAME = 0xCF
    END_OF_IMAGE = 0xD9
    START_OF_SCAN = 0xDA
    APP0_JFIF = 0xE0
    APP14_ADOBE = 0xEE
    FILL = 0xFF


_NO_FRAMES = {
    JpegMarker.HUFFMAN_TABLES,
    JpegMarker.EXTENSION,
    JpegMarker.ARITHMETIC_CONDITIONING,
}
_SEQUENTIAL = {JpegMarker.START_OF_FRAME_BASELINE, JpegMarker.START_OF_FRAME_SEQUENTIAL}
_ENDS = {JpegMarker.END_OF_IMAGE, JpegMarker.START_OF_SCAN}


@dataclass(frozen=True)
class JpegHeader:
    """What a JPEG stream declares before its first scan.

    Attributes:
        width: width of the image in px.
        height: height of the image in px.
        sequential: whether it is coded in one pass with Huffman codes; not every reader takes the
            other processes.
        sampling: horizontal and vertical sampling factor of each component, as (h, v).
        adobe_transform: the colour transform that Adobe's marker names (0 none, 1 YCbCr, 2 YCCK),
            or None without the marker.
    """

    width: int
    height: int
    sequential: bool
    sampling: tuple[tuple[int, int], ...]
    adobe_transform: int | None


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Lists the segments before the first scan of a JPEG stream.

    Args:
        data: the stream, from its first byte.

    Returns:
        The marker and the content of each segment, up to the first that is no segment.
    """
    segments = []
    position = 2
    while position + 4 <= len(data) and data[position] == JpegMarker.FILL:
        marker = data[position + 1]
        if marker == JpegMarker.FILL:
            position += 1
            continue
        if marker in _ENDS:
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segments.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + max(length, 2)
    return segments


def jpeg_header(data: bytes) -> JpegHeader:
    """Reads the header of a JPEG stream.

    Args:
        data: the stream, from its first byte.

    Returns:
        What the frame and Adobe's marker declare.

    Raises:
        DamagedPieceError: it is no JPEG stream.
    """
    segments = jpeg_segments(data)
    transforms = [
        content[11]
        for marker, content in segments
        if marker == JpegMarker.APP14_ADOBE and content.startswith(b"Adobe") and len(content) >= 12
    ]
    for marker, content in segments:
        if not _starts_a_frame(marker) or len(content) < 5:
            continue
        components = content[6 : 6 + _COMPONENT_BYTES * content[5]] if len(content) > 5 else b""
        return JpegHeader(
            width=int.from_bytes(content[3:5], "big"),
            height=int.from_bytes(content[1:3], "big"),
            sequential=marker in _SEQUENTIAL,
            sampling=tuple((factor >> 4, factor & 15) for factor in components[1::3]),
            adobe_transform=transforms[-1] if transforms else None,
        )
    raise DamagedPieceError("it is no JPEG stream")


def _starts_a_frame(marker: int) -> bool:
    first, last = JpegMarker.START_OF_FRAME_BASELINE, JpegMarker.LAST_START_OF_FRAME
    return first <= marker <= last and marker not in _NO_FRAMES


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Reads the size that a JPEG stream declares.

    Args:
        data: the stream, from its first byte.

    Returns:
        Width and height in px.

    Raises:
        DamagedPieceError: it is no JPEG stream.
    """
    header = jpeg_header(data)
    return header.width, header.height


def declares_colour_space(data: bytes, tables: bytes | None) -> bool:
    """Tells whether a JPEG stream has a JFIF or an Adobe marker, which fix its colour space.

    Args:
        data: the stream, from its first byte.
        tables: the stream of shared tables that belongs to it, if there is one.
    """
    segments = jpeg_segments(data) + jpeg_segments(tables or b"")
    return any(
        (marker == JpegMarker.APP0_JFIF and content.startswith(b"JFIF\0"))
        or (marker == JpegMarker.APP14_ADOBE and content.startswith(b"Adobe"))
        for marker, content in segments
    )


@dataclass(frozen=True)
class J2kHeader:
    """What the SIZ marker of a JPEG 2000 stream declares (ITU-T T.800, A.5.1).

    Attributes:
        width: width of the image in px.
        height: height of the image in px.
        steps: horizontal and vertical spacing of each component's samples in px.
    """

    width: int
    height: int
    steps: tuple[tuple[int, int], ...]


def j2k_header(data: bytes) -> J2kHeader:
    """Reads the header of a JPEG 2000 stream, bare or in JP2 boxes.

    Args:
        data: the stream, from its first byte.

    Returns:
        What its SIZ marker declares.

    Raises:
        DamagedPieceError: it is no JPEG 2000 stream.
    """
    start = data.find(b"\xff\x4f\xff\x51")
    body = data[start + 4 :] if start >= 0 else b""
    if len(body) < 38:
        raise DamagedPieceError("it is no JPEG 2000 stream")
    right, bottom, left, top = struct.unpack(">4I", body[4:20])
    components = body[38 : 38 + _COMPONENT_BYTES * int.from_bytes(body[36:38], "big")]
    steps = tuple(zip(components[1::3], components[2::3], strict=False))
    return J2kHeader(right - left, bottom - top, steps)


def subsampled_j2k(data: bytes) -> bool:
    """Tells whether a JPEG 2000 stream has components of different resolution."""
    try:
        return any(step != (1, 1) for step in j2k_header(data).steps)
    except DamagedPieceError:
        return False
