"""From one pyramid format to another, without a model: any readable slide to OME-TIFF or OME-Zarr.

Where level 0 of the source is tiled JPEG of a kind that every reader takes, its tiles are copied
as they are: no second loss. All else is decoded and encoded again, a single tile that differs from
the others too. Levels above 0 are always made
anew, by 2x2 means. Memory is that of the writer fed in Z-order, and of the slide's cache.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import tifffile

from wsisr.errors import UsageError
from wsisr.files import file_sha256
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer, z_order
from wsisr.resolution import completed
from wsisr.slides import Slide, open_slide
from wsisr.version import VERSION

JPEG, YCBCR, RGB = 7, 6, 2
_SOF = frozenset({0xC0, 0xC1})
"""Sequential streams; progressive ones are not read everywhere."""
_SOS = 0xDA
TILES_LOOKED_AT = 8
_ADOBE = 0xEE
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Says that a stream is RGB. Aperio's do not, and readers without the TIFF tags take YCbCr."""


@dataclass(frozen=True)
class ConvertResult:
    """What was written.

    `copied_tiles` of the level-0 `tiles` were taken over undecoded, `unreadable_tiles` were damaged
    in the source and are background.
    """

    output: Path
    width: int
    height: int
    mpp: float
    magnification: float
    levels: int
    tiles: int
    copied_tiles: int
    unreadable_tiles: int
    seconds: float


@dataclass(frozen=True)
class JpegTiles:
    """Level 0 of a TIFF as square JPEG tiles. subsampling: as `PyramidSpec` names it.

    photometric: RGB or YCBCR, as the tag says. head: the segments that each tile's stream lacks to
    stand alone, to put behind its first two bytes.
    """

    tile: int
    subsampling: str
    photometric: int
    head: bytes
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    def whole(self, data: bytes) -> bytes | None:
        """A tile's stream made to stand alone; None where it is unlike the others."""
        stream = whole_jpeg(data, self.head)
        kind = _kind(stream, self.photometric)
        return stream if kind == (self.subsampling, self.tile, self.tile) else None


def convert(
    source: str | Path,
    output: str | Path,
    *,
    tile: int = 512,
    compression: str = "jpeg",
    quality: int = 90,
    subsampling: str = "420",
    layout: str = "ome",
    zarr_version: str = "0.4",
    mpp: float | None = None,
    magnification: float | None = None,
    associated: bool = False,
    reencode: bool = False,
    on_tile_error: str = "fail",
    threads: int = 1,
    overwrite: bool = False,
    resume: bool | None = None,
    progress: Callable[[int, int], None] = lambda done, tiles: None,
) -> ConvertResult:
    """Write `source` to `output`, an `.ome.tif`, `.ome.tiff` or `.ome.zarr`.

    tile, compression, quality, subsampling, layout, zarr_version: see `PyramidSpec`; where JPEG
    tiles are copied, tile size and subsampling are the source's, and quality is that of the
    levels above 0. reencode: do not copy. mpp (um/px), magnification: stand in place of the
    source's; one follows from the other where only one is known (10 um/px at 1x). associated:
    carry label, macro and thumbnail. on_tile_error: `fail`, or `blank`: damaged tiles become
    background and are listed in the provenance. progress: called with tiles done and in
    all. An interrupted conversion goes on when called again; see `open_writer` for overwrite and
    resume.

    Raises SlideError (unreadable source), UsageError (no pixel size known, bad options) and
    OutputError.
    """
    start = time.monotonic()
    output = Path(output)
    with ExitStack() as stack:
        unreadable: set[tuple[str, int, int]] | None = set() if on_tile_error == "blank" else None
        slide = stack.enter_context(open_slide(source, unreadable=unreadable))
        mpp, magnification = _scale(slide, mpp, magnification)
        wants_jpeg = compression == "jpeg" and not output.name.lower().endswith(".zarr")
        tiles = jpeg_tiles(slide) if wants_jpeg and not reencode else None
        provenance = _provenance(slide, copied=tiles is not None)
        spec = PyramidSpec(
            slide.width,
            slide.height,
            mpp,
            magnification,
            tile=tiles.tile if tiles else tile,
            compression=compression,
            quality=quality,
            subsampling=tiles.subsampling if tiles else subsampling,
            layout=layout,
            icc_profile=slide.icc_profile,
            background=slide.background,
            name=slide.path.name,
            provenance=provenance,
            associated=dict(slide.associated) if associated else {},
            zarr_version=zarr_version,
        )
        writer = stack.enter_context(
            open_writer(
                output,
                spec,
                threads=threads,
                overwrite=overwrite,
                resume=resume,
                fingerprint=json.dumps(provenance, sort_keys=True),
            )
        )
        copied = _write(slide, tiles, writer, unreadable, progress)
        # known only now; the metadata are written last
        provenance["unreadable_tiles"] = sorted(unreadable or ())
        writer.finish()
    rows, cols = spec.grid(0)
    return ConvertResult(
        output,
        spec.width,
        spec.height,
        mpp,
        magnification,
        len(spec.levels),
        rows * cols,
        copied,
        len(unreadable or ()),
        time.monotonic() - start,
    )


def _write(
    slide: Slide,
    tiles: JpegTiles | None,
    writer: PyramidWriter,
    unreadable: set[tuple[str, int, int]] | None,
    progress: Callable[[int, int], None],
) -> int:
    """Give every tile that is not there yet; how many are copies, of those given."""
    spec = writer.spec
    rows, cols = spec.grid(0)
    copied = 0
    with ExitStack() as stack:
        file = stack.enter_context(slide.path.open("rb")) if tiles else None
        for number, (row, col) in enumerate(z_order(rows, cols), start=1):
            done = writer.done(row, col)
            # what is done is read again only to list the damage of the whole slide
            if not done or unreadable is not None:
                height, width = spec.tile_shape(0, row, col)
                pixels = slide.read(0, col * spec.tile, row * spec.tile, width, height)
            if not done:
                data = None
                if tiles and file and ("level 0", col, row) not in (unreadable or ()):
                    data = _stored_tile(tiles, file, row * cols + col)
                if data is None:
                    writer.write_tile(row, col, pixels)
                else:
                    writer.write_encoded(row, col, data, pixels)
                    copied += 1
            progress(number, rows * cols)
    return copied


def _stored_tile(tiles: JpegTiles, file: BinaryIO, index: int) -> bytes | None:
    """A tile of the source as it is to stand in the output; None where it cannot be copied."""
    if not tiles.lengths[index]:
        return None
    file.seek(tiles.offsets[index])
    return tiles.whole(file.read(tiles.lengths[index]))


def jpeg_tiles(slide: Slide) -> JpegTiles | None:
    """Level 0 of a slide as JPEG tiles that can stand in an OME-TIFF as they are, or None.

    Taken are square tiles whose side is a multiple of 16, in the colour models that all readers
    agree on: YCbCr at 4:2:0 or 4:2:2, or RGB at full resolution, in the tags and in the stream.
    """
    try:
        with tifffile.TiffFile(slide.path) as file:
            page: Any = file.pages.first
            if not _is_plain_jpeg(page) or (page.imagewidth, page.imagelength) != (
                slide.width,
                slide.height,
            ):
                return None
            lengths = tuple(int(n) for n in page.databytecounts)
            offsets = tuple(int(n) for n in page.dataoffsets)
            # shared tables are a stream of their own; what counts is between its two markers
            head = bytes(page.jpegtables or b"")[2:-2]
            photometric, tile = int(page.photometric), int(page.tilewidth)
            stored = [i for i, length in enumerate(lengths) if length]
            # the first one may be damaged
            for index in stored[:TILES_LOOKED_AT]:
                file.filehandle.seek(offsets[index])
                stream = whole_jpeg(file.filehandle.read(lengths[index]), head)
                kind = _kind(stream, photometric)
                if kind is not None and kind[1:] == (tile, tile):
                    if kind[0] == "444" and ADOBE_RGB[4:9] not in stream[:4096]:
                        head = ADOBE_RGB + head
                    return JpegTiles(tile, kind[0], photometric, head, offsets, lengths)
            return None
    except (OSError, tifffile.TiffFileError, ValueError):
        # no TIFF, or one that tifffile takes no part in: the slide's own reader decodes it
        return None


def _is_plain_jpeg(page: Any) -> bool:
    return bool(
        page.is_tiled
        and page.compression == JPEG
        and page.photometric in (YCBCR, RGB)
        and page.samplesperpixel == 3
        and page.planarconfig == 1
        and page.bitspersample == 8
        and page.tilewidth == page.tilelength
        and page.tilewidth % 16 == 0
    )


def whole_jpeg(data: bytes, head: bytes) -> bytes:
    """An abbreviated JPEG stream made whole (TIFF Technical Note 2)."""
    return data[:2] + head + data[2:]


def _kind(stream: bytes, photometric: int) -> tuple[str, int, int] | None:
    """Chroma subsampling, width and height of a stream, where its colour model can be copied.

    That is where tags and stream agree on a model that every reader takes.
    """
    factors: list[int] = []
    width = height = 0
    transform = None
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != _SOS:
        marker, size = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + size]
        if marker in _SOF and len(body) >= 15:
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            factors = [body[7], body[10], body[13]]
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        at += 2 + size
    if photometric == RGB:
        subsampling = "444" if not transform and factors == [0x11] * 3 else None
    elif transform == 0:
        return None
    else:
        subsampling = {"221111": "420", "211111": "422"}.get(bytes(factors).hex())
    return None if subsampling is None else (subsampling, width, height)


def _scale(slide: Slide, mpp: float | None, magnification: float | None) -> tuple[float, float]:
    for option, value in (("--input-mpp", mpp), ("--input-mag", magnification)):
        if value is not None and not 0 < value < math.inf:
            raise UsageError(f"{option} {value:g} is not a resolution; give a number above 0")
    if mpp is None and magnification is None:
        mpp, magnification = slide.mpp, slide.magnification
    mpp, magnification = completed(mpp, magnification)
    if mpp is None or magnification is None:
        raise UsageError(
            f"{slide.path} does not say its pixel size; give --input-mpp or --input-mag"
        )
    return mpp, magnification


def _provenance(slide: Slide, *, copied: bool) -> dict[str, Any]:
    return {
        "software": f"wsisr {VERSION}",
        "operation": "convert",
        "input": {
            "name": slide.path.name,
            "format": slide.vendor,
            "sha256": file_sha256(slide.path),
            "mpp": slide.mpp,
            "magnification": slide.magnification,
        },
        "level0": "JPEG tiles copied" if copied else "decoded and encoded again",
    }
