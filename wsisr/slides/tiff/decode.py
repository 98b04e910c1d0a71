"""Decodes one piece (tile or strip) of a TIFF image from its stored bytes.

References:
    TIFF 6.0; TIFF Technical Note 2 (JPEG); Aperio's JPEG 2000 (33003, 33005).
"""

from __future__ import annotations

import zlib

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsisr.formats import Alpha, Codec, DamagedPieceError, Photometric, j2k_header, jpeg_size
from wsisr.slides.base import RGB, on_background
from wsisr.slides.tiff.pieces import JPEG_2000, JPEG_EXPANSION, PieceGrid

LARGE_BYTES = 128 << 20
"""From this size on, decoded, a piece must be stored in a sixteenth of it."""
LARGE_EXPANSION = 16


def decode_piece(
    grid: PieceGrid,
    planes: list[bytes],
    shape: tuple[int, int],
    colour: tuple[int, int, int],
    scratch: RGB | None = None,
) -> RGB:
    """Decodes a piece to RGB, with alpha laid over a colour.

    Args:
        grid: the pieces of the image.
        planes: the stored bytes of the piece, one entry for each plane.
        shape: rows and columns of the piece that lie in the image.
        colour: what lies under transparent pixels.
        scratch: uint8 (piece height, piece width, 3) that may be used for the result, or None.

    Returns:
        uint8 (h, w, 3) of at least `shape`; it may be `scratch`.

    Raises:
        DamagedPieceError: the bytes do not decode to what the tags promise.
    """
    parts = [decode_plane(grid, data, shape, scratch) for data in planes]
    pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return to_rgb(grid, pixels, colour)


def to_rgb(grid: PieceGrid, pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> RGB:
    """Turns samples (h, w, 1 to 4) into RGB."""
    if grid.photometric == Photometric.MIN_IS_WHITE:
        pixels = np.concatenate([255 - pixels[..., :1], pixels[..., 1:]], axis=2)
    if grid.samples <= 2:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    if grid.alpha == Alpha.STRAIGHT:
        return on_background(pixels, colour)
    if grid.alpha == Alpha.ASSOCIATED:
        under = np.asarray(colour, np.uint32) * (255 - pixels[..., 3:].astype(np.uint32))
        return np.minimum(pixels[..., :3] + (2 * under + 255) // 510, 255).astype(np.uint8)
    if pixels.shape[2] > 3:
        return np.ascontiguousarray(pixels[..., :3])
    return pixels


def decode_plane(
    grid: PieceGrid, data: bytes, shape: tuple[int, int], scratch: RGB | None
) -> NDArray[np.uint8]:
    """Decodes one plane of a piece to (rows, columns, samples in the plane)."""
    samples = grid.samples if grid.planes == 1 else 1
    check_memory(grid, len(data))
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


def check_memory(grid: PieceGrid, stored: int) -> None:
    """Refuses a large piece of few bytes before it is decoded.

    Args:
        grid: the pieces of the image.
        stored: bytes of the piece.

    Raises:
        DamagedPieceError: it would take much memory, and no honest picture is so small.
    """
    samples = 4 * grid.samples if grid.codec in JPEG_2000 else max(grid.samples, 3)
    size = grid.piece_width * grid.piece_height * samples
    if size > max(LARGE_BYTES, LARGE_EXPANSION * stored):
        raise DamagedPieceError(
            f"it would take {size >> 20} MB of memory, and its {stored} bytes cannot hold so much"
        )


def decode_bytes(
    grid: PieceGrid, data: bytes | bytearray, shape: tuple[int, int], samples: int
) -> NDArray[np.uint8]:
    """Decodes a byte-oriented codec; strips may end with the image, tiles are whole."""
    rows = grid.piece_height if grid.tiled else shape[0]
    size = rows * grid.piece_width * samples
    if grid.codec is Codec.LZW:
        data = imagecodecs.lzw_decode(data, out=size)
    elif grid.codec in (Codec.DEFLATE, Codec.DEFLATE_OLD):
        data = inflated(data, size)
    elif grid.codec is Codec.ZSTD:
        data = imagecodecs.zstd_decode(data, out=size)
    elif grid.codec is Codec.PACKBITS:
        data = unpacked(data, size)
    if len(data) < size:
        raise DamagedPieceError(f"it holds {len(data)} of {size} bytes")
    pixels: NDArray[np.uint8] = np.frombuffer(data, np.uint8, size)
    pixels = pixels.reshape(rows, grid.piece_width, samples)
    if grid.predictor:
        pixels = np.asarray(imagecodecs.delta_decode(pixels, axis=1), np.uint8)
    return pixels


def inflated(data: bytes | bytearray, size: int) -> bytes | bytearray:
    """Decodes Deflate; what follows the pixels is left, as libtiff leaves it."""
    try:
        return imagecodecs.zlib_decode(data, out=size)
    except RuntimeError:
        try:
            return zlib.decompressobj().decompress(data, size)
        except zlib.error as error:
            raise ValueError(str(error)) from error


def unpacked(data: bytes | bytearray, size: int) -> bytes | bytearray:
    """Decodes PackBits; what follows the pixels is left."""
    try:
        return imagecodecs.packbits_decode(data, out=size)
    except RuntimeError:
        # two bytes become 128 at most
        return imagecodecs.packbits_decode(data)[:size]


def decode_jpeg(
    grid: PieceGrid, data: bytes, shape: tuple[int, int], scratch: RGB | None
) -> NDArray[np.uint8]:
    """Decodes a JPEG piece.

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
    elif grid.photometric == Photometric.YCBCR or grid.jpeg_guess:
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
    """Decodes a JPEG 2000 piece; Aperio's 33003 holds YCbCr, the other two codecs RGB."""
    header = j2k_header(data)
    check_size(grid, (header.width, header.height), shape)
    pixels = np.asarray(imagecodecs.jpeg2k_decode(data, planar=False))
    if grid.codec is Codec.APERIO_J2K_YCBCR and pixels.ndim == 3:
        import cv2

        order = np.ascontiguousarray(pixels[..., (0, 2, 1)])
        return np.asarray(cv2.cvtColor(order, cv2.COLOR_YCrCb2RGB), np.uint8)
    return pixels


def check_size(grid: PieceGrid, size: tuple[int, int], shape: tuple[int, int]) -> None:
    """Makes sure that a stream declares the size of its piece.

    Some writers store edge pieces no larger than the image; nothing makes them larger.

    Args:
        grid: the pieces of the image.
        size: width and height that the stream declares, in px.
        shape: rows and columns of the piece that lie in the image.

    Raises:
        DamagedPieceError: it declares another size.
    """
    width, height = size
    if not (shape[1] <= width <= grid.piece_width and shape[0] <= height <= grid.piece_height):
        raise DamagedPieceError(
            f"its stream declares {width}x{height} pixels for a piece of "
            f"{grid.piece_width}x{grid.piece_height}"
        )
