"""TODO-DOC"""

from __future__ import annotations

import struct
from dataclasses import dataclass


class DamagedPieceError(Exception):
    """The bytes of a piece do not decode to what the tags promise."""


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """(marker, content) of the segments before the first scan (ITU-T T.81, annex B)."""
    segments = []
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in (0xD9, 0xDA):
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        segments.append((marker, data[position + 4 : position + 2 + length]))
        position += 2 + max(length, 2)
    return segments


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height a JPEG stream declares; `DamagedPieceError` where it is none."""
    for marker, content in jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 5:
            return int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big")
    raise DamagedPieceError("it is no JPEG stream")


def says_its_colours(data: bytes, tables: bytes | None) -> bool:
    """Whether a stream has a JFIF or an Adobe marker, which settle its colour space."""
    segments = jpeg_segments(data) + jpeg_segments(tables or b"")
    return any(
        (marker == 0xE0 and content.startswith(b"JFIF\0"))
        or (marker == 0xEE and content.startswith(b"Adobe"))
        for marker, content in segments
    )


@dataclass(frozen=True)
class J2kHeader:
    """What the SIZ marker of a JPEG 2000 stream says (ITU-T T.800, A.5.1).

    width, height in px; steps: horizontal and vertical spacing of each component's samples.
    """

    width: int
    height: int
    steps: tuple[tuple[int, int], ...]


def j2k_header(data: bytes) -> J2kHeader:
    """The header of a stream, or of one in JP2 boxes; `DamagedPieceError` where it is none."""
    start = data.find(b"\xff\x4f\xff\x51")
    body = data[start + 4 :] if start >= 0 else b""
    if len(body) < 38:
        raise DamagedPieceError("it is no JPEG 2000 stream")
    right, bottom, left, top = struct.unpack(">4I", body[4:20])
    components = body[38 : 38 + 3 * int.from_bytes(body[36:38], "big")]
    steps = tuple(zip(components[1::3], components[2::3], strict=False))
    return J2kHeader(right - left, bottom - top, steps)


def subsampled_j2k(data: bytes) -> bool:
    """Whether a JPEG 2000 stream has components of different resolution."""
    try:
        return any(step != (1, 1) for step in j2k_header(data).steps)
    except DamagedPieceError:
        return False
