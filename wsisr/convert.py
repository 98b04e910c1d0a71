"""From one pyramid format to another, without a model: any readable slide to OME-TIFF or OME-Zarr.

Where level 0 of the source is tiled JPEG of a kind that every reader takes, its tiles are copied
as they are: no second loss. All else is decoded and encoded again. Levels above 0 are always made
anew, by 2x2 means. Memory is that of the writer fed in Z-order, and of the slide's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tifffile

import wsisr
from wsisr.errors import UsageError
from wsisr.plan import nominal_magnification
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer, z_order
from wsisr.slides import Slide, open_slide

JPEG, YCBCR, RGB = 7, 6, 2
_SOF = frozenset({0xC0, 0xC1, 0xC2})
_SOS = 0xDA
_ADOBE = 0xEE
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""Says that a stream is RGB. Aperio's do not, and readers without the TIFF tags take YCbCr."""


@dataclass(frozen=True)
class ConvertResult:
    """What was written. `copied_tiles` of the level-0 `tiles` were taken over undecoded."""

    output: Path
    width: int
    height: int
    mpp: float
    magnification: float
    levels: int
    tiles: int
    copied_tiles: int
    seconds: float


@dataclass(frozen=True)
class JpegTiles:
    """Level 0 of a TIFF as square JPEG tiles. subsampling: as `PyramidSpec` names it.

    head: the segments that each tile's stream lacks to stand alone, to put behind its first two
    bytes.
    """

    tile: int
    subsampling: str
    head: bytes
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]


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
    threads: int = 1,
    overwrite: bool = False,
    resume: bool | None = None,
    progress: Callable[[int, int], None] = lambda done, tiles: None,
) -> ConvertResult:
    """Write `source` to `output`, an `.ome.tif`, `.ome.tiff` or `.ome.zarr`.

    tile, compression, quality, subsampling, layout, zarr_version: see `PyramidSpec`; where JPEG
    tiles are copied, tile size and subsampling are the source's, and quality is that of the
    levels above 0. reencode: do not copy. mpp (um/px), magnification: override the source's; one
    follows from the other where the source has neither (10 um/px at 1x). associated: carry label,
    macro and thumbnail. progress: called with tiles done and in all. An interrupted conversion
    goes on when called again; see `open_writer` for overwrite and resume.

    Raises SlideError (unreadable source), UsageError (no pixel size known, bad options) and
    OutputError.
    """
    start = time.monotonic()
    output = Path(output)
    with ExitStack() as stack:
        slide = stack.enter_context(open_slide(source))
        mpp, magnification = _scale(slide, mpp, magnification)
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
            name=slide.path.name,
            provenance=_provenance(slide, copied=tiles is not None),
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
                fingerprint=_fingerprint(slide.path, copied=tiles is not None),
            )
        )
        copied = _write(slide, tiles, writer, progress)
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
        time.monotonic() - start,
    )


def _write(
    slide: Slide,
    tiles: JpegTiles | None,
    writer: PyramidWriter,
    progress: Callable[[int, int], None],
) -> int:
    """Give every tile that is not there yet; how many are copies, of all."""
    spec = writer.spec
    rows, cols = spec.grid(0)
    copied = 0
    with ExitStack() as stack:
        file = stack.enter_context(slide.path.open("rb")) if tiles else None
        for number, (row, col) in enumerate(z_order(rows, cols), start=1):
            at = row * cols + col
            copy = tiles is not None and tiles.lengths[at] > 0
            copied += copy
            if not writer.done(row, col):
                height, width = spec.tile_shape(0, row, col)
                pixels = slide.read(0, col * spec.tile, row * spec.tile, width, height)
                if copy and tiles is not None and file is not None:
                    file.seek(tiles.offsets[at])
                    data = whole_jpeg(file.read(tiles.lengths[at]), tiles.head)
                    writer.write_encoded(row, col, data, pixels)
                else:
                    writer.write_tile(row, col, pixels)
            progress(number, rows * cols)
    return copied


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
            first = next((i for i, length in enumerate(lengths) if length), None)
            if first is None:
                return None
            file.filehandle.seek(offsets[first])
            stream = whole_jpeg(file.filehandle.read(lengths[first]), head)
            subsampling = _subsampling(stream, int(page.photometric))
            if subsampling is None:
                return None
            if subsampling == "444" and ADOBE_RGB[4:9] not in stream[:4096]:
                head = ADOBE_RGB + head
            return JpegTiles(int(page.tilewidth), subsampling, head, offsets, lengths)
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


def _subsampling(stream: bytes, photometric: int) -> str | None:
    """The stream's chroma subsampling where tags and stream agree on a model to be copied."""
    factors: list[int] = []
    transform = None
    at = 2
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != _SOS:
        marker, size = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + size]
        if marker in _SOF and len(body) >= 15:
            factors = [body[7], body[10], body[13]]
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) >= 12:
            transform = body[11]
        at += 2 + size
    if photometric == RGB:
        return "444" if not transform and factors == [0x11] * 3 else None
    if transform == 0:
        return None
    return {"221111": "420", "211111": "422"}.get(bytes(factors).hex())


def _scale(slide: Slide, mpp: float | None, magnification: float | None) -> tuple[float, float]:
    mpp = mpp or slide.mpp
    magnification = magnification or slide.magnification
    if mpp is None and magnification is None:
        raise UsageError(
            f"{slide.path} does not say its pixel size; give --input-mpp or --input-mag"
        )
    # 40x is 0.25 um/px by the convention of whole-slide scanners
    return mpp or 10 / (magnification or 1), magnification or nominal_magnification(mpp or 10)


def _provenance(slide: Slide, *, copied: bool) -> dict[str, Any]:
    return {
        "software": f"wsisr {wsisr.__version__}",
        "operation": "convert",
        "source": slide.path.name,
        "source_format": slide.vendor,
        "level0": "JPEG tiles copied" if copied else "decoded and encoded again",
    }


def _fingerprint(path: Path, *, copied: bool) -> str:
    state = path.stat()
    return f"convert {path.resolve()} {state.st_size} {state.st_mtime_ns} {copied}"
