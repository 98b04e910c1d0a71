"""Converts one pyramid format to another, without a model: any slide to OME-TIFF or OME-Zarr.

Where level 0 of the source is tiled JPEG of a kind that every reader takes, its tiles are copied
as they are: no second loss. All else is decoded and encoded again, a single tile that differs from
the others too. Levels above 0 are always made anew, by 2x2 means. Memory is that of the writer fed
in Z-order, and of the slide's cache.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import tifffile

from wsisr.formats import (
    ADOBE_RGB,
    Codec,
    DamagedPieceError,
    Photometric,
    PlanarConfiguration,
    TagId,
    jpeg_header,
)
from wsisr.guard import refuse_inputs
from wsisr.progress import Progress, State
from wsisr.pyramid import (
    Compression,
    Layout,
    PyramidSpec,
    PyramidWriter,
    Subsampling,
    ZarrVersion,
    open_writer,
    written_paths,
    z_order,
)
from wsisr.resolution import stated_resolution
from wsisr.sharing import pseudonym
from wsisr.slides import Slide, open_slide, slide_digests, slide_files
from wsisr.version import VERSION

TILES_LOOKED_AT = 8
"""So many tiles are tried to find out how a slide is coded, for the first may be damaged."""

DamagedTiles = set[tuple[str, int, int]]
"""What of a source could not be read: name of the level, column and row of the tile."""

_SUBSAMPLINGS: dict[tuple[tuple[int, int], ...], Subsampling] = {
    ((2, 2), (1, 1), (1, 1)): "420",
    ((2, 1), (1, 1), (1, 1)): "422",
    ((1, 1), (1, 1), (1, 1)): "444",
}


@dataclass(frozen=True)
class ConvertResult:
    """What came of a conversion; `wsisr convert --json` prints these fields.

    Attributes:
        output: the file or folder written, or its URL without what is secret in it.
        width: width of level 0 in px.
        height: height of level 0 in px.
        mpp: um/px of level 0.
        magnification: of the objective that level 0 corresponds to.
        levels: how many levels the output has.
        tiles: how many tiles level 0 has.
        copied_tiles: how many of them were taken over undecoded, by this run.
        damaged_source_tiles: how many tiles of the source could not be read and are background.
        seconds: how long it took.
    """

    output: Path | str
    width: int
    height: int
    mpp: float
    magnification: float
    levels: int
    tiles: int
    copied_tiles: int
    damaged_source_tiles: int
    seconds: float


@dataclass(frozen=True)
class JpegTiles:
    """Level 0 of a TIFF as square JPEG tiles that can be copied.

    Attributes:
        tile: side of a tile in px.
        subsampling: chroma subsampling of every tile.
        photometric: RGB or YCBCR, as the tag says it.
        head: the segments that each tile's stream lacks to stand alone, to put behind its first
            two bytes.
        offsets: position of each tile in the file, row by row.
        lengths: bytes of each tile, 0 for one that is not stored.
    """

    tile: int
    subsampling: Subsampling
    photometric: Photometric
    head: bytes
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    def complete(self, data: bytes) -> bytes | None:
        """Makes a tile's stream stand alone; gives None where it is unlike the others."""
        stream = complete_jpeg(data, self.head)
        kind = _kind(stream, self.photometric)
        return stream if kind == (self.subsampling, self.tile, self.tile) else None


def convert(
    source: str | Path,
    output: str | Path,
    *,
    tile: int = 512,
    compression: Compression = "jpeg",
    quality: int = 90,
    subsampling: Subsampling = "420",
    layout: Layout = "ome",
    zarr_version: ZarrVersion = "0.4",
    input_mpp: float | None = None,
    input_mag: float | None = None,
    associated: bool = False,
    anonymous: bool = False,
    reencode: bool = False,
    on_tile_error: Literal["fail", "blank"] = "fail",
    threads: int = 1,
    overwrite: bool = False,
    resume: bool | None = None,
    destination: str | None = None,
    progress: Progress = lambda state: None,
) -> ConvertResult:
    """Converts a slide to OME-TIFF or OME-Zarr without a model.

    An interrupted conversion goes on when it is called again.

    Args:
        source: any slide that wsisr reads.
        output: the file or folder to write; `.ome.tif`, `.ome.tiff` or `.ome.zarr` picks the
            format.
        tile: side of the stored tiles in px; where JPEG tiles are copied it is the source's.
        compression: how the tiles of an OME-TIFF are coded.
        quality: the JPEG quality from 1 to 100, of the levels above 0 alone where JPEG tiles are
            copied; it also picks the fidelity of JPEG 2000, which is lossless at 100.
        subsampling: chroma subsampling of JPEG; where JPEG tiles are copied it is the source's.
        layout: `ome` keeps the levels of an OME-TIFF in SubIFDs alone, `hybrid` also chains them
            as main images, for openslide and cuCIM.
        zarr_version: version of NGFF that an OME-Zarr follows.
        input_mpp: um/px of the source in place of what it records.
        input_mag: magnification of the source in place of what it records; where only one of the
            two is known, the other follows from it (10 um/px at 1x).
        associated: carry label, macro and thumbnail, which may hold patient data.
        anonymous: write a digest in place of the name of the source.
        reencode: do not copy JPEG tiles as they are.
        on_tile_error: `fail` stops at a damaged tile of the source; with `blank`, damaged tiles
            become background and are listed in the output's metadata.
        threads: how many workers encode tiles.
        overwrite: replace an existing output, and discard an unfinished run unless `resume` is
            True.
        resume: None and True go on from an unfinished run if there is one; False discards it.
        destination: URL of object storage that takes an OME-Zarr in place of `output`, which then
            names the journal's place.
        progress: called after each tile of level 0, with how many are done.

    Returns:
        What was written.

    Raises:
        SlideError: the source cannot be read.
        UsageError: no pixel size is known, or an option cannot be carried out.
        OutputError: the output cannot be written.
    """
    start = time.monotonic()
    output = Path(output)
    damaged: DamagedTiles | None = set() if on_tile_error == "blank" else None
    with ExitStack() as stack:
        slide = stack.enter_context(open_slide(source, unreadable=damaged))
        name = pseudonym(slide.path) if anonymous else slide.path.name
        refuse_inputs(written_paths(output), [Path(source), *slide_files(Path(source))])
        recorded = slide.mpp, slide.magnification
        mpp, magnification = stated_resolution(slide.path, recorded, input_mpp, input_mag)
        wants_jpeg = compression == "jpeg" and not output.name.lower().endswith(".zarr")
        tiles = jpeg_tiles(slide) if wants_jpeg and not reencode else None
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
            name=name,
            provenance=_provenance(slide, anonymous, copied=tiles is not None),
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
                fingerprint=json.dumps(spec.provenance, sort_keys=True),
                url=destination,
                blanks_damage=damaged is not None,
            )
        )
        copied = _write_tiles(slide, tiles, writer, damaged, progress)
        writer.finish({**spec.provenance, "damaged_source_tiles": sorted(damaged or ())})
    return _report(output, spec, copied, len(damaged or ()), time.monotonic() - start)


def _report(
    output: Path, spec: PyramidSpec, copied: int, damaged: int, seconds: float
) -> ConvertResult:
    rows, cols = spec.grid(0)
    return ConvertResult(
        output=output,
        width=spec.width,
        height=spec.height,
        mpp=spec.mpp,
        magnification=spec.magnification,
        levels=len(spec.levels),
        tiles=rows * cols,
        copied_tiles=copied,
        damaged_source_tiles=damaged,
        seconds=seconds,
    )


def _write_tiles(
    slide: Slide,
    tiles: JpegTiles | None,
    writer: PyramidWriter,
    damaged: DamagedTiles | None,
    progress: Progress,
) -> int:
    """Gives every tile that is not there yet; counts those of them that are copies."""
    spec = writer.spec
    rows, cols = spec.grid(0)
    copied = pixels_done = 0
    start = time.monotonic()
    with ExitStack() as stack:
        file = stack.enter_context(slide.path.open("rb")) if tiles else None
        for number, (row, col) in enumerate(z_order(rows, cols), start=1):
            done = writer.done(row, col)
            # what is done is read again only to list the damage of the whole slide
            if not done or damaged is not None:
                height, width = spec.tile_shape(0, row, col)
                pixels = slide.read(0, col * spec.tile, row * spec.tile, width, height)
            if not done:
                data = None
                if tiles and file and ("level 0", col, row) not in (damaged or ()):
                    data = _stored_tile(tiles, file, row * cols + col)
                if data is None:
                    writer.write_tile(row, col, pixels)
                else:
                    writer.write_encoded(row, col, data, pixels)
                    copied += 1
            pixels_done += math.prod(spec.tile_shape(0, row, col))
            seconds = time.monotonic() - start
            progress(State(number, rows * cols, 0, pixels_done, 0.0, seconds))
    return copied


def _stored_tile(tiles: JpegTiles, file: BinaryIO, index: int) -> bytes | None:
    """Reads a tile as it is to stand in the output; None where it cannot be copied."""
    if not tiles.lengths[index]:
        return None
    file.seek(tiles.offsets[index])
    return tiles.complete(file.read(tiles.lengths[index]))


def jpeg_tiles(slide: Slide) -> JpegTiles | None:
    """Finds JPEG tiles at level 0 of a slide that can stand in an OME-TIFF as they are.

    Taken are square tiles whose side is a multiple of 16, in the colour models that all readers
    agree on: YCbCr at 4:2:0 or 4:2:2, or RGB at full resolution, in the tags and in the stream.

    Args:
        slide: the open slide.

    Returns:
        The tiles, or None where the slide has none of that kind.
    """
    try:
        with tifffile.TiffFile(slide.path) as file:
            page: Any = file.pages.first
            size = page.imagewidth, page.imagelength
            if not _is_plain_jpeg(page) or size != (slide.width, slide.height):
                return None
            if slide.vendor == "generic-tiff" and page.tags.valueof(TagId.ORIENTATION, 1) != 1:
                return None  # the slide shows it turned
            return _tiles_of(page, file.filehandle)
    except Exception:  # tifffile raises errors of any kind
        # no TIFF, or one that tifffile takes no part in: the slide's own reader decodes it
        return None


def _tiles_of(page: Any, file: Any) -> JpegTiles | None:
    lengths = tuple(int(n) for n in page.databytecounts)
    offsets = tuple(int(n) for n in page.dataoffsets)
    # shared tables are a stream of their own; what counts is between its two markers
    head = bytes(page.jpegtables or b"")[2:-2]
    photometric, tile = Photometric(int(page.photometric)), int(page.tilewidth)
    stored = [i for i, length in enumerate(lengths) if length]
    for index in stored[:TILES_LOOKED_AT]:
        file.seek(offsets[index])
        stream = complete_jpeg(file.read(lengths[index]), head)
        kind = _kind(stream, photometric)
        if kind is not None and kind[1:] == (tile, tile):
            # Aperio's RGB streams do not declare it, and readers without the tags take YCbCr
            if kind[0] == "444" and ADOBE_RGB[4:9] not in stream[:4096]:
                head = ADOBE_RGB + head
            return JpegTiles(tile, kind[0], photometric, head, offsets, lengths)
    return None


def _is_plain_jpeg(page: Any) -> bool:
    return bool(
        page.is_tiled
        and page.compression == Codec.JPEG
        and page.photometric in (Photometric.YCBCR, Photometric.RGB)
        and page.samplesperpixel == 3
        and page.planarconfig == PlanarConfiguration.INTERLEAVED
        and page.bitspersample == 8
        and page.tilewidth == page.tilelength
        and page.tilewidth % 16 == 0
    )


def complete_jpeg(data: bytes, head: bytes) -> bytes:
    """Completes an abbreviated JPEG stream (TIFF Technical Note 2).

    Args:
        data: the stream.
        head: the segments that it lacks.

    Returns:
        A stream that stands alone.
    """
    return data[:2] + head + data[2:]


def _kind(stream: bytes, photometric: Photometric) -> tuple[Subsampling, int, int] | None:
    """Gives chroma subsampling, width and height of a stream whose colour model can be copied.

    That is where tags and stream agree on a model that every reader takes; progressive streams
    are not read everywhere.
    """
    try:
        header = jpeg_header(stream)
    except DamagedPieceError:
        return None
    subsampling = _SUBSAMPLINGS.get(header.sampling) if header.sequential else None
    is_rgb = photometric is Photometric.RGB
    # RGB streams are not transformed, and YCbCr streams do not claim to be RGB
    agrees = not header.adobe_transform if is_rgb else header.adobe_transform != 0
    if subsampling is None or not agrees or is_rgb != (subsampling == "444"):
        return None
    return subsampling, header.width, header.height


def _provenance(slide: Slide, anonymous: bool, *, copied: bool) -> dict[str, Any]:
    return {
        "software": f"wsisr {VERSION}",
        "operation": "convert",
        "input": {
            "name": pseudonym(slide.path) if anonymous else slide.path.name,
            "format": slide.vendor,
            **slide_digests(slide.path, with_names=not anonymous),
            "mpp": slide.mpp,
            "magnification": slide.magnification,
        },
        "level0": "JPEG tiles copied" if copied else "decoded and encoded again",
    }
