"""How one image of a TIFF file is cut into pieces (tiles or strips), and how a piece decodes.

Specification: TIFF 6.0; TIFF Technical Note 2 (JPEG); Aperio's JPEG 2000 (33003, 33005).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.formats import (
    Codec,
    Photometric,
    PlanarConfiguration,
    Predictor,
    TagId,
    declares_colour_space,
    subsampled_j2k,
)
from wsisr.slides.tiff.ifd import Ifd

MAX_PIECE_BYTES = 1 << 30
"""A tile or strip larger than this, decoded, is refused: real ones are a thousandth of it."""
JPEG_EXPANSION = 2048
"""Decoded bytes a stored byte of JPEG: an empty block costs two bits, in progressive ones less."""
RAW_STRIP_ROWS = 64
"""Uncompressed strips are read in parts of this many rows."""


COLOURS: dict[int, int] = {
    Photometric.MIN_IS_WHITE: 1,
    Photometric.MIN_IS_BLACK: 1,
    Photometric.RGB: 3,
    Photometric.YCBCR: 3,
}
"""Samples of a pixel that hold its colour."""
JPEG_2000 = (Codec.APERIO_J2K_YCBCR, Codec.APERIO_J2K_RGB, Codec.JPEG2000)


class NotDirectError(Exception):
    """The image is encoded in a way that is not decoded here; another library may know it."""


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
    planar = ifd.integer(TagId.PLANAR_CONFIGURATION, PlanarConfiguration.INTERLEAVED)
    planes = samples if planar == PlanarConfiguration.SEPARATE and samples > 1 else 1
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
        predictor=ifd.integer(TagId.PREDICTOR, Predictor.NONE) == Predictor.HORIZONTAL,
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
    photometric = ifd.integer(TagId.PHOTOMETRIC, Photometric.MIN_IS_BLACK)
    extra = [int(value) for value in ifd.integers(TagId.EXTRA_SAMPLES)]
    colours = COLOURS.get(photometric)
    if code not in list(Codec):
        raise NotDirectError(f"its compression {code} is unknown")
    codec = Codec(code)
    if colours is None or samples not in (colours, colours + 1):
        raise NotDirectError(f"{samples} samples of photometric {photometric} are no grey or RGB")
    if photometric == Photometric.YCBCR and codec not in (Codec.JPEG, *JPEG_2000[:2]):
        raise NotDirectError("it holds YCbCr without JPEG")
    if samples > colours and codec in (Codec.JPEG, *JPEG_2000):
        raise NotDirectError("it holds JPEG with alpha")
    if ifd.integer(TagId.FILL_ORDER, 1) != 1:
        raise NotDirectError("its bits are in reversed order")
    if ifd.integer(TagId.PREDICTOR, Predictor.NONE) not in tuple(Predictor):
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
        return replace(grid, jpeg_guess=declares_colour_space(data, grid.jpeg_tables))
    if subsampled_j2k(data):
        raise NotDirectError("its JPEG 2000 components differ in size")
    return grid
