"""Tells how one image of a TIFF file is cut into pieces (tiles or strips), and how each decodes.

References:
    TIFF 6.0; TIFF Technical Note 2 (JPEG); Aperio's JPEG 2000 (33003, 33005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError
from wsisr.formats import (
    Alpha,
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
"""Decoded bytes for each stored byte: an empty block costs two bits, less in progressive JPEG."""
STRIP_TAGS = (TagId.STRIP_OFFSETS, TagId.STRIP_BYTE_COUNTS)
RAW_STRIP_ROWS = 64
"""Uncompressed strips are read in parts of this many rows."""


COLOURS: dict[int, int] = {
    Photometric.MIN_IS_WHITE: 1,
    Photometric.MIN_IS_BLACK: 1,
    Photometric.RGB: 3,
    Photometric.YCBCR: 3,
}
"""Samples of a pixel that hold its colour."""
UNSIGNED = (1, 4)
"""Values of the tag `SAMPLE_FORMAT` for unsigned samples: stated, or left undefined."""
JPEG_2000 = (Codec.APERIO_J2K_YCBCR, Codec.APERIO_J2K_RGB, Codec.JPEG2000)


class NotDirectError(Exception):
    """Says that an image is encoded in a way not decoded here; another library may know it."""


@dataclass(frozen=True)
class PieceGrid:
    """Describes the pieces of an image and their encoding.

    Attributes:
        width: of the image, in px.
        height: of the image, in px.
        piece_width: of a piece, in px.
        piece_height: of a piece, in px.
        tiled: whether pieces are tiles, else strips.
        samples: of a pixel, alpha included.
        codec: compression of the pieces.
        photometric: what the samples mean, see `wsisr.formats.Photometric`.
        predictor: whether differences of neighbours are stored.
        alpha: the kind of alpha, see `wsisr.formats.Alpha`.
        jpeg_tables: tables that the JPEG streams share, or None.
        jpeg_guess: whether the JPEG streams themselves say which colours they hold.
        offsets: position in the file of piece (plane, row, column), uint64
            (planes, rows, columns).
        lengths: bytes of each piece, of the same shape; 0 for one that was not stored.
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
        """The planes that the samples are spread over: 1 where they are interleaved."""
        return int(self.offsets.shape[0])

    @property
    def rows(self) -> int:
        """The number of rows of pieces."""
        return int(self.offsets.shape[1])

    @property
    def columns(self) -> int:
        """The number of columns of pieces."""
        return int(self.offsets.shape[2])

    def inside(self, row: int, column: int) -> tuple[int, int]:
        """Gives the rows and columns of a piece that lie in the image."""
        return (
            min(self.piece_height, self.height - row * self.piece_height),
            min(self.piece_width, self.width - column * self.piece_width),
        )


def is_tiled(ifd: Ifd) -> bool:
    """Tells whether the image is stored in tiles."""
    return TagId.TILE_WIDTH in ifd.tags


def image_size(ifd: Ifd) -> tuple[int, int]:
    """Reads the width and height that the directory declares, 0 where it does not."""
    return ifd.integer(TagId.IMAGE_WIDTH, 0), ifd.integer(TagId.IMAGE_LENGTH, 0)


def piece_grid(ifd: Ifd) -> PieceGrid:
    """Reads how an image is cut into pieces.

    Args:
        ifd: its directory.

    Returns:
        The pieces, all of which lie within what the tags list.

    Raises:
        NotDirectError: an encoding unknown here.
        SlideError: tags that contradict each other or the file's size.
    """
    width, height = checked_size(ifd)
    samples = ifd.integer(TagId.SAMPLES_PER_PIXEL, 1)
    codec, photometric, alpha = encoding(ifd, samples)
    planar = ifd.integer(TagId.PLANAR_CONFIGURATION, PlanarConfiguration.INTERLEAVED)
    planes = samples if planar == PlanarConfiguration.SEPARATE and samples > 1 else 1
    tiled = is_tiled(ifd)
    # OpenJPEG works on 32 bit numbers
    pixel_bytes = samples * (4 if codec in JPEG_2000 else 1)
    piece = piece_size(ifd, width, height, pixel_bytes)
    shape = planes, -(-height // piece[1]), -(-width // piece[0])
    offsets, lengths = stored_pieces(ifd, shape)
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
    if codec is Codec.NONE:
        # some writers count a whole strip of more rows than the image has
        most = piece[0] * piece[1] * (samples if planes == 1 else 1)
        grid = replace(grid, lengths=np.minimum(grid.lengths, np.uint64(most)))
    if codec is Codec.NONE and not tiled and planes == 1 and not grid.predictor:
        return split_raw_strips(grid)
    return checked_stream(ifd, grid)


def joined_planes(first: PieceGrid, further: Sequence[PieceGrid]) -> PieceGrid:
    """Makes one image of the grey images of red, green and blue.

    Args:
        first: the pieces of red.
        further: those of green and blue.

    Returns:
        The pieces of all, in planes.

    Raises:
        NotDirectError: they are not stored alike.
    """

    def stored(grid: PieceGrid) -> tuple[object, ...]:
        size = grid.width, grid.height, grid.piece_width, grid.piece_height
        return *size, grid.tiled, grid.samples, grid.codec, grid.predictor, grid.jpeg_tables

    grey = first.samples == 1 and first.photometric == Photometric.MIN_IS_BLACK
    if not grey or any(stored(grid) != stored(first) for grid in further):
        raise NotDirectError("its planes are not stored alike")
    grids = [first, *further]
    return replace(
        first,
        samples=len(grids),
        photometric=Photometric.RGB,
        offsets=np.concatenate([grid.offsets for grid in grids]),
        lengths=np.concatenate([grid.lengths for grid in grids]),
    )


def checked_size(ifd: Ifd) -> tuple[int, int]:
    """Reads width and height of an image of 8 bits a sample.

    Raises:
        NotDirectError: samples of another kind.
        SlideError: a size that cannot be.
    """
    path = ifd.source.path
    width, height = image_size(ifd)
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise SlideError(f"{path} is damaged: it declares an image of {width}x{height} pixels")
    bits = {int(value) for value in ifd.integers(TagId.BITS_PER_SAMPLE)} or {1}
    if bits != {8} or ifd.integer(TagId.SAMPLE_FORMAT, 1) not in UNSIGNED:
        raise NotDirectError(f"it has {max(bits)} bits a sample, or signed or floating samples")
    return width, height


def piece_size(ifd: Ifd, width: int, height: int, pixel_bytes: int) -> tuple[int, int]:
    """Reads width and height of a piece, in px.

    Raises:
        SlideError: a size that cannot be, or takes too much memory to decode.
    """
    piece = piece_shape(ifd, width, height)
    too_large = piece[0] * piece[1] * pixel_bytes > MAX_PIECE_BYTES
    if min(piece) < 1 or (too_large and not is_raw_strip(ifd)):
        raise SlideError(
            f"{ifd.source.path} is stored in pieces of {piece[0]}x{piece[1]} pixels; it is "
            "damaged, or must be converted to a tiled TIFF first"
        )
    return piece


def piece_shape(ifd: Ifd, width: int, height: int) -> tuple[int, int]:
    """Reads width and height of a piece, in px, as they are declared."""
    if is_tiled(ifd):
        return ifd.integer(TagId.TILE_WIDTH, 0), ifd.integer(TagId.TILE_LENGTH, 0)
    return width, min(height, ifd.integer(TagId.ROWS_PER_STRIP, height))


def is_raw_strip(ifd: Ifd) -> bool:
    """Tells whether an image lies in uncompressed strips, which need not be read whole."""
    planar = ifd.integer(TagId.PLANAR_CONFIGURATION, PlanarConfiguration.INTERLEAVED)
    return (
        not is_tiled(ifd)
        and ifd.integer(TagId.COMPRESSION, Codec.NONE) == Codec.NONE
        and (planar != PlanarConfiguration.SEPARATE or ifd.integer(TagId.SAMPLES_PER_PIXEL, 1) == 1)
        and ifd.integer(TagId.PREDICTOR, Predictor.NONE) == Predictor.NONE
    )


def stored_pieces(
    ifd: Ifd, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Reads positions and lengths of the pieces, each of `shape` (planes, rows, columns).

    Raises:
        NotDirectError: the tags are missing: some writers misplace them.
        SlideError: fewer are listed than the image needs.
    """
    tags = (TagId.TILE_OFFSETS, TagId.TILE_BYTE_COUNTS) if is_tiled(ifd) else STRIP_TAGS
    if not all(tag in ifd.tags for tag in tags):
        raise NotDirectError("it does not list where its pieces lie, or how long they are")
    offsets, lengths = (ifd.integers(tag) for tag in tags)
    needed = math.prod(shape)
    if offsets.size < needed or lengths.size < offsets.size:
        width, height = image_size(ifd)
        raise SlideError(
            f"{ifd.source.path} is damaged: an image of {width}x{height} pixels needs "
            f"{needed} pieces, and {offsets.size} are listed"
        )
    return offsets[:needed].reshape(shape), lengths[:needed].reshape(shape)


def encoding(ifd: Ifd, samples: int) -> tuple[Codec, int, int]:
    """Reads codec, photometric interpretation and kind of alpha.

    Raises:
        NotDirectError: one of them, or their combination, is unknown here.
    """
    code = ifd.integer(TagId.COMPRESSION, 1)
    unsaid = Photometric.RGB if samples >= 3 else Photometric.MIN_IS_BLACK
    photometric = ifd.integer(TagId.PHOTOMETRIC, unsaid)
    extra = [int(value) for value in ifd.integers(TagId.EXTRA_SAMPLES)]
    if photometric == Photometric.MIN_IS_BLACK and samples == 3 and not any(extra):
        # what several writers call an RGB image whose colours they do not know to be such
        photometric = Photometric.RGB
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
    # where writers leave the tag out, libtiff takes what follows the colours for alpha
    kind = extra[0] if extra else Alpha.STRAIGHT
    return codec, photometric, kind if samples > colours else Alpha.NONE


def split_raw_strips(grid: PieceGrid) -> PieceGrid:
    """Splits uncompressed strips into parts of few rows, so that none needs to be read whole."""
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
    """Checks the stream of the first stored piece, and gives the grid with what it says.

    Raises:
        NotDirectError: it cannot be decoded here.
    """
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
