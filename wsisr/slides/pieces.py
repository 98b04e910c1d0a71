"""How one image of a TIFF file is cut into pieces (tiles or strips), and how a piece decodes.

Specification: TIFF 6.0; TIFF Technical Note 2 (JPEG); Aperio's JPEG 2000 (33003, 33005).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.slides.base import RGB, on_background
from wsisr.slides.ifd import Ifd

MAX_PIECE_BYTES = 1 << 30
"""A tile or strip larger than this, decoded, is refused: real ones are a thousandth of it."""
JPEG_EXPANSION = 2048
"""Decoded bytes a stored byte of JPEG: an empty block costs two bits, in progressive ones less."""
RAW_STRIP_ROWS = 64
"""Uncompressed strips are read in parts of this many rows."""


class TagId(IntEnum):
    """The tags that describe pixels."""

    NEW_SUBFILE_TYPE = 254
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    IMAGE_DESCRIPTION = 270
    STRIP_OFFSETS = 273
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    X_RESOLUTION = 282
    Y_RESOLUTION = 283
    PLANAR_CONFIGURATION = 284
    RESOLUTION_UNIT = 296
    PREDICTOR = 317
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    JPEG_TABLES = 347
    ICC_PROFILE = 34675


class Codec(IntEnum):
    """The compressions decoded here."""

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


JPEG_2000 = (Codec.APERIO_J2K_YCBCR, Codec.APERIO_J2K_RGB, Codec.JPEG2000)
MIN_IS_WHITE, MIN_IS_BLACK, RGB_PHOTOMETRIC, YCBCR = 0, 1, 2, 6
ASSOCIATED_ALPHA, STRAIGHT_ALPHA = 1, 2


class NotDirectError(Exception):
    """The image is encoded in a way that is not decoded here; another library may know it."""


class DamagedPieceError(Exception):
    """The bytes of a piece do not decode to what the tags promise."""


@dataclass(frozen=True)
class PieceGrid:
    """The pieces of an image and their encoding.

    width, height: of the image, piece_width, piece_height: of a piece, in px. offsets, lengths:
    position and bytes of piece (plane, row, column), uint64 (planes, rows, columns); a length of 0
    means the piece was not stored. alpha: 0 for none, else the kind in the ExtraSamples tag.
    """

    width: int
    height: int
    piece_width: int
    piece_height: int
    tiled: bool
    samples: int
    codec: Codec
    photometric: int
    predictor: bool
    alpha: int
    jpeg_tables: bytes | None
    jpeg_guess: bool
    offsets: NDArray[np.uint64]
    lengths: NDArray[np.uint64]

    @property
    def planes(self) -> int:
        """How many planes the samples are spread over: 1 where they are interleaved."""
        return int(self.offsets.shape[0])

    @property
    def rows(self) -> int:
        """Rows of pieces."""
        return int(self.offsets.shape[1])

    @property
    def columns(self) -> int:
        """Columns of pieces."""
        return int(self.offsets.shape[2])

    def inside(self, row: int, column: int) -> tuple[int, int]:
        """Rows and columns of the piece that lie in the image."""
        return (
            min(self.piece_height, self.height - row * self.piece_height),
            min(self.piece_width, self.width - column * self.piece_width),
        )


def is_tiled(ifd: Ifd) -> bool:
    """Whether the image is stored in tiles."""
    return TagId.TILE_WIDTH in ifd.tags


def image_size(ifd: Ifd) -> tuple[int, int]:
    """Width and height the directory declares, 0 where it does not."""
    return ifd.integer(TagId.IMAGE_WIDTH, 0), ifd.integer(TagId.IMAGE_LENGTH, 0)


def piece_grid(ifd: Ifd) -> PieceGrid:
    """The pieces of an image.

    Raises `NotDirectError` for encodings unknown here, `SlideError` for tags that contradict each
    other or the file's size, and for anything but 8 bits a sample.
    """
    path = ifd.source.path
    width, height = image_size(ifd)
    samples = ifd.integer(TagId.SAMPLES_PER_PIXEL, 1)
    bits = {int(value) for value in ifd.integers(TagId.BITS_PER_SAMPLE)} or {1}
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise SlideError(f"{path} is damaged: it declares an image of {width}x{height} pixels")
    if bits != {8} or ifd.integer(TagId.SAMPLE_FORMAT, 1) != 1:
        raise SlideError(
            f"{path} has {max(bits)} bits a sample; convert it to 8 bit grey or RGB first"
        )
    codec, photometric, alpha = encoding(ifd, samples)
    planes = samples if ifd.integer(TagId.PLANAR_CONFIGURATION, 1) == 2 and samples > 1 else 1
    tiled = is_tiled(ifd)
    if tiled:
        piece = ifd.integer(TagId.TILE_WIDTH, 0), ifd.integer(TagId.TILE_LENGTH, 0)
        offsets, lengths = ifd.integers(TagId.TILE_OFFSETS), ifd.integers(TagId.TILE_BYTE_COUNTS)
    else:
        piece = width, min(height, ifd.integer(TagId.ROWS_PER_STRIP, height))
        offsets, lengths = ifd.integers(TagId.STRIP_OFFSETS), ifd.integers(TagId.STRIP_BYTE_COUNTS)
    # OpenJPEG works on 32 bit numbers
    sample_bytes = 4 if codec in JPEG_2000 else 1
    if min(piece) < 1 or piece[0] * piece[1] * samples * sample_bytes > MAX_PIECE_BYTES:
        raise SlideError(
            f"{path} is stored in pieces of {piece[0]}x{piece[1]} pixels; it is damaged, or must "
            "be converted to a tiled TIFF first"
        )
    shape = planes, -(-height // piece[1]), -(-width // piece[0])
    if offsets.size < np.prod(shape, dtype=object) or lengths.size < offsets.size:
        raise SlideError(
            f"{path} is damaged: an image of {width}x{height} pixels needs "
            f"{np.prod(shape, dtype=object)} pieces, and {offsets.size} are listed"
        )
    stored = int(np.prod(shape))
    offsets, lengths = offsets[:stored].reshape(shape), lengths[:stored].reshape(shape)
    grid = PieceGrid(
        width=width,
        height=height,
        piece_width=piece[0],
        piece_height=piece[1],
        tiled=tiled,
        samples=samples,
        codec=codec,
        photometric=photometric,
        predictor=ifd.integer(TagId.PREDICTOR, 1) == 2,
        alpha=alpha,
        jpeg_tables=(ifd.raw(TagId.JPEG_TABLES) or None) if codec is Codec.JPEG else None,
        jpeg_guess=False,
        offsets=offsets,
        lengths=np.where(offsets == 0, np.uint64(0), lengths),
    )
    if codec is Codec.NONE and not tiled and planes == 1 and not grid.predictor:
        return split_raw_strips(grid)
    return checked_stream(ifd, grid)


def encoding(ifd: Ifd, samples: int) -> tuple[Codec, int, int]:
    """Codec, photometric interpretation and kind of alpha, where all are known here."""
    code = ifd.integer(TagId.COMPRESSION, 1)
    photometric = ifd.integer(TagId.PHOTOMETRIC, MIN_IS_BLACK)
    extra = [int(value) for value in ifd.integers(TagId.EXTRA_SAMPLES)]
    colours = {MIN_IS_WHITE: 1, MIN_IS_BLACK: 1, RGB_PHOTOMETRIC: 3, YCBCR: 3}.get(photometric)
    if code not in list(Codec):
        raise NotDirectError(f"its compression {code} is unknown")
    codec = Codec(code)
    if colours is None or samples not in (colours, colours + 1):
        raise NotDirectError(f"{samples} samples of photometric {photometric} are no grey or RGB")
    if photometric == YCBCR and codec not in (Codec.JPEG, *JPEG_2000[:2]):
        raise NotDirectError("it holds YCbCr without JPEG")
    if samples > colours and codec in (Codec.JPEG, *JPEG_2000):
        raise NotDirectError("it holds JPEG with alpha")
    if ifd.integer(TagId.FILL_ORDER, 1) != 1:
        raise NotDirectError("its bits are in reversed order")
    if ifd.integer(TagId.PREDICTOR, 1) not in (1, 2):
        raise NotDirectError("its predictor is unknown")
    return codec, photometric, (extra[0] if extra else 0) if samples > colours else 0


def split_raw_strips(grid: PieceGrid) -> PieceGrid:
    """Uncompressed strips in parts of few rows, so that none needs to be read whole."""
    per_strip = -(-grid.piece_height // RAW_STRIP_ROWS)
    if per_strip == 1 or (grid.piece_height % RAW_STRIP_ROWS and grid.rows > 1):
        return grid
    row_bytes = grid.width * grid.samples
    rows = -(-grid.height // RAW_STRIP_ROWS)
    part = np.arange(rows)
    strip, within = part // per_strip, part % per_strip
    left = np.minimum(RAW_STRIP_ROWS, grid.height - part * RAW_STRIP_ROWS)
    stored = grid.lengths[0, strip, 0] > 0
    offsets = grid.offsets[0, strip, 0] + (within * RAW_STRIP_ROWS * row_bytes).astype(np.uint64)
    return replace(
        grid,
        piece_height=RAW_STRIP_ROWS,
        offsets=offsets.reshape(1, rows, 1),
        lengths=np.where(stored, left * row_bytes, 0).astype(np.uint64).reshape(1, rows, 1),
    )


def checked_stream(ifd: Ifd, grid: PieceGrid) -> PieceGrid:
    """The grid, once its first stored piece shows a stream that can be decoded here."""
    if grid.codec is not Codec.JPEG and grid.codec not in JPEG_2000:
        return grid
    stored = np.flatnonzero(grid.lengths)
    if not stored.size:
        return grid
    first = int(stored[0])
    offset, length = int(grid.offsets.flat[first]), int(grid.lengths.flat[first])
    if offset + length > ifd.source.size:
        return grid
    data = ifd.source.read(offset, length)
    if grid.codec is Codec.JPEG:
        return replace(grid, jpeg_guess=says_its_colours(data, grid.jpeg_tables))
    if subsampled_j2k(data):
        raise NotDirectError("its JPEG 2000 components differ in size")
    return grid


def decode_piece(
    grid: PieceGrid,
    planes: list[bytes],
    shape: tuple[int, int],
    colour: tuple[int, int, int],
    scratch: RGB | None = None,
) -> RGB:
    """One piece from its encoded bytes, one entry a plane; alpha is laid over `colour`.

    shape: rows and columns that lie in the image. Returns uint8 of at least that size, with three
    channels; it may be `scratch`, uint8 (piece height, piece width, 3), where that is given.
    Raises `DamagedPieceError`.
    """
    parts = [decode_plane(grid, data, shape, scratch) for data in planes]
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return to_rgb(grid, pixels, colour)


def to_rgb(grid: PieceGrid, pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> RGB:
    """Samples (h, w, 1 to 4) as RGB."""
    if grid.photometric == MIN_IS_WHITE:
        pixels = np.concatenate([255 - pixels[..., :1], pixels[..., 1:]], axis=2)
    if grid.samples <= 2:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    if grid.alpha == STRAIGHT_ALPHA:
        return on_background(pixels, colour)
    if grid.alpha == ASSOCIATED_ALPHA:
        under = np.asarray(colour, np.uint32) * (255 - pixels[..., 3:].astype(np.uint32))
        return np.minimum(pixels[..., :3] + (2 * under + 255) // 510, 255).astype(np.uint8)
    if pixels.shape[2] > 3:
        return np.ascontiguousarray(pixels[..., :3])
    return pixels


def decode_plane(
    grid: PieceGrid, data: bytes, shape: tuple[int, int], scratch: RGB | None
) -> NDArray[np.uint8]:
    """The samples of one plane of a piece, (rows, columns, samples in the plane)."""
    samples = grid.samples if grid.planes == 1 else 1
    try:
        if grid.codec is Codec.JPEG:
            pixels = decode_jpeg(grid, data, shape, scratch)
        elif grid.codec in JPEG_2000:
            pixels = decode_j2k(grid, data, shape)
        else:
            pixels = decode_bytes(grid, data, shape, samples)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise DamagedPieceError(str(error) or type(error).__name__) from error
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != samples:
        raise DamagedPieceError(f"it decodes to {pixels.dtype} {pixels.shape}")
    if pixels.shape[0] < shape[0] or pixels.shape[1] < shape[1]:
        raise DamagedPieceError(f"it holds only {pixels.shape[1]}x{pixels.shape[0]} pixels")
    return pixels


def decode_bytes(
    grid: PieceGrid, data: bytes | bytearray, shape: tuple[int, int], samples: int
) -> NDArray[np.uint8]:
    """A piece of a byte-oriented codec; strips may end with the image, tiles are whole."""
    rows = grid.piece_height if grid.tiled else shape[0]
    size = rows * grid.piece_width * samples
    if grid.codec is Codec.LZW:
        data = imagecodecs.lzw_decode(data, out=size)
    elif grid.codec in (Codec.DEFLATE, Codec.DEFLATE_OLD):
        data = imagecodecs.zlib_decode(data, out=size)
    elif grid.codec is Codec.ZSTD:
        data = imagecodecs.zstd_decode(data, out=size)
    elif grid.codec is Codec.PACKBITS:
        data = imagecodecs.packbits_decode(data, out=size)
    if len(data) < size:
        raise DamagedPieceError(f"it holds {len(data)} of {size} bytes")
    pixels: NDArray[np.uint8] = np.frombuffer(data, np.uint8, size)
    pixels = pixels.reshape(rows, grid.piece_width, samples)
    if grid.predictor:
        pixels = np.asarray(imagecodecs.delta_decode(pixels, axis=1), np.uint8)
    return pixels


def decode_jpeg(
    grid: PieceGrid, data: bytes, shape: tuple[int, int], scratch: RGB | None
) -> NDArray[np.uint8]:
    """A JPEG piece.

    The photometric tag says which colours the stream holds, as libtiff has it, unless the stream
    itself says so (JFIF or Adobe marker): writers that mark it and tag it wrongly are common.
    """
    size = jpeg_size(data)
    check_size(grid, size, shape)
    if size[0] * size[1] * 3 > JPEG_EXPANSION * len(data):
        raise DamagedPieceError(
            f"its stream declares {size[0]}x{size[1]} pixels, more than its {len(data)} bytes hold"
        )
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise DamagedPieceError("its JPEG stream is cut short")
    colours: tuple[str | None, str | None]
    if grid.planes > 1 or grid.samples == 1:
        colours = (None, None)
    elif grid.photometric == YCBCR or grid.jpeg_guess:
        colours = (None, "RGB")
    else:
        colours = ("RGB", "RGB")
    fits = colours[1] is not None and size == (grid.piece_width, grid.piece_height)
    return imagecodecs.jpeg8_decode(
        data,
        tables=grid.jpeg_tables,
        colorspace=colours[0],
        outcolorspace=colours[1],
        out=scratch if fits else None,
    )


def decode_j2k(grid: PieceGrid, data: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """A JPEG 2000 piece; 33003 holds YCbCr, the other two RGB."""
    header = j2k_header(data)
    check_size(grid, (header.width, header.height), shape)
    pixels = np.asarray(imagecodecs.jpeg2k_decode(data, planar=False))
    if grid.codec is Codec.APERIO_J2K_YCBCR and pixels.ndim == 3:
        order = np.ascontiguousarray(pixels[..., (0, 2, 1)])
        return np.asarray(cv2.cvtColor(order, cv2.COLOR_YCrCb2RGB), np.uint8)
    return pixels


def check_size(grid: PieceGrid, size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Raise `DamagedPieceError` where a stream declares another size than its piece has.

    Some writers store edge pieces no larger than the image; nothing makes them larger.
    """
    width, height = size
    if not (shape[1] <= width <= grid.piece_width and shape[0] <= height <= grid.piece_height):
        raise DamagedPieceError(
            f"its stream declares {width}x{height} pixels for a piece of "
            f"{grid.piece_width}x{grid.piece_height}"
        )


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
