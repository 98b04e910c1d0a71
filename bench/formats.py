"""Opens every image below a folder with wsisr and four other readers, and says who differs.

The others are tifffile, libvips, Pillow and openslide. Each reader's pixels are brought to 8 bit
RGB the plain way: upright, alpha over white, of 16 bits the upper eight. What a reader does not
call grey, RGB or a palette is left out, for there is no plain way. Where two of the others agree,
wsisr is compared with them; an image that nobody agrees on tells nothing.

Files are opened in a process of their own, one after another: a reader that crashes or hangs is
counted, and the next file has a new process.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.command import add_json, make_parser, one_line, output_file, write_json
from wsisr.errors import SlideError, UsageError, WsisrError
from wsisr.slides import open_slide

SUFFIXES = frozenset(
    {".tif", ".tiff", ".btf", ".svs", ".ndpi", ".scn", ".bif", ".png", ".jpg", ".jpeg", ".jfif"}
    | {".webp", ".gif", ".heic", ".heif", ".avif", ".dcm", ".mrxs"}
)
LARGEST = 100_000_000
"""Pixels of the largest image that is compared."""
SECONDS = 180
"""Time that all readers together have for a file; one that takes longer counts as a crash."""
MEAN_DIFFERENCE, LARGEST_DIFFERENCE = 0.5, 8
"""Grey levels within which pixels are the same: decoders of JPEG round differently."""
OUTCOMES = ("equal", "refused", "different", "crash", "no two agree")

RGB = npt.NDArray[np.uint8]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares the readers on a folder.

    Returns:
        1 where wsisr differs from what two others agree on, or crashes; else 0.
    """
    parser = make_parser("bench.formats", __doc__)
    parser.add_argument("folder", type=Path, help="folder of images, of any depth")
    parser.add_argument("--list", type=output_file, metavar="FILE", help="write a line a file")
    add_json(parser)
    try:
        options = parser.parse_args(arguments)
        return _run(options)
    except WsisrError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.exit_code


def _run(options: argparse.Namespace) -> int:
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise UsageError(f"{options.folder} holds no image files")
    counts: Counter[str] = Counter()
    lines = []
    for path, (outcome, detail) in zip(files, outcomes(files), strict=True):
        counts[outcome] += 1
        line = f"{outcome}: {path.relative_to(options.folder)}: {detail}"
        lines.append(line)
        if outcome not in ("equal", "no two agree"):
            print(line, flush=True)
    if options.list:
        options.list.write_text("\n".join(lines) + "\n", encoding="utf-8")
    agreed = sum(counts[name] for name in OUTCOMES[:4])
    figures: dict[str, Any] = {name.replace(" ", "_"): counts[name] for name in OUTCOMES}
    figures["equal_share"] = counts["equal"] / agreed if agreed else float("nan")
    for name, value in figures.items():
        print(f"{name:<14} {value:8.4g}")
    write_json(options.json, figures)
    return 1 if counts["different"] or counts["crash"] else 0


def outcomes(
    files: Sequence[Path], comparing: Callable[[Path], tuple[str, str]] | None = None
) -> Iterator[tuple[str, str]]:
    """Yields what became of each file: one of `OUTCOMES`, and details.

    Args:
        files: the images.
        comparing: what is done with each in the other process; `compare` where it is None.
    """
    pool = None
    for path in files:
        pool = pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        future = pool.submit(comparing or compare, path)
        try:
            yield future.result(SECONDS)
        except (TookTooLong, BrokenProcessPool) as error:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False)
            pool = None
            yield "crash", f"of any reader: {type(error).__name__}"
    if pool:
        pool.shutdown()


def compare(path: Path) -> tuple[str, str]:
    """Compares wsisr with what at least two of the other readers agree on.

    Args:
        path: the image.

    Returns:
        One of `OUTCOMES`, and details.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found = {name: _attempt(reader, path) for name, reader in OTHERS.items()}
    read = {name: pixels for name, pixels in found.items() if not isinstance(pixels, str)}
    agreeing = {
        name: pixels
        for name, pixels in read.items()
        if any(same(pixels, other) for label, other in read.items() if label != name)
    }
    others = ", ".join(
        f"{name} {'agrees' if name in agreeing else 'differs' if name in read else reason(result)}"
        for name, result in found.items()
    )
    try:
        own = by_wsisr(path)
    except WsisrError as error:
        return ("refused" if agreeing else "no two agree"), f"{error} [{others}]"
    except Exception as error:  # what the comparison is there to find
        return "crash", f"{type(error).__name__}: {error} [{others}]"
    if not agreeing:
        return "no two agree", f"wsisr reads {own.shape} [{others}]"
    if any(same(own, pixels) for pixels in agreeing.values()):
        return "equal", f"[{others}]"
    return "different", f"{_difference(own, next(iter(agreeing.values())))} [{others}]"


def reason(result: object) -> str:
    """Gives the reason for which a reader has no pixels, in brackets."""
    return f"({result})"


def same(first: RGB, second: RGB) -> bool:
    """Tells whether two images are the same but for the rounding of decoders."""
    if first.shape != second.shape:
        return False
    difference = np.abs(first.astype(np.int16) - second)
    return bool(difference.mean() <= MEAN_DIFFERENCE and difference.max() <= LARGEST_DIFFERENCE)


def _difference(first: RGB, second: RGB) -> str:
    if first.shape != second.shape:
        return f"shape {first.shape}, others {second.shape}"
    difference = np.abs(first.astype(np.int16) - second)
    return f"mean difference {difference.mean():.2f}, largest {difference.max()}"


def _attempt(reader: Callable[[Path], RGB], path: Path) -> RGB | str:
    try:
        return reader(path)
    except Exception as error:  # a library's own, of any kind
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:80]


def _check_size(width: int, height: int) -> None:
    if width * height > LARGEST:
        raise ValueError("too large to compare")


def by_wsisr(path: Path) -> RGB:
    """Reads level 0 with wsisr."""
    with open_slide(path) as slide:
        if slide.width * slide.height > LARGEST:
            raise SlideError("too large to compare")
        return slide.read(0, 0, 0, slide.width, slide.height)


def by_pillow(path: Path) -> RGB:
    """Reads the first image with Pillow."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        _check_size(*image.size)
        kind = image.mode
        image = ImageOps.exif_transpose(image)
        if kind.startswith("I;16"):
            return in_rgb(np.asarray(image).astype(np.uint16))
        if kind not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise ValueError(f"mode {kind}")
        return in_rgb(np.asarray(image.convert("RGBA")))


def by_libvips(path: Path) -> RGB:
    """Reads the first image with libvips."""
    import pyvips

    source = pyvips.Source.new_from_file(str(path))
    image = pyvips.Image.new_from_source(source, "", access="random", fail_on="truncated")
    _check_size(image.width, image.height)
    if image.interpretation not in ("b-w", "grey16", "srgb", "rgb16"):
        raise ValueError(f"interpretation {image.interpretation}")
    image = image.autorot()
    return in_rgb(image.numpy().reshape(image.height, image.width, image.bands))


def by_openslide(path: Path) -> RGB:
    """Reads level 0 with openslide."""
    import openslide

    with openslide.OpenSlide(str(path)) as slide:
        _check_size(*slide.dimensions)
        return in_rgb(np.asarray(slide.read_region((0, 0), 0, slide.dimensions)))


def by_tifffile(path: Path) -> RGB:
    """Reads the first image with tifffile."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _check_size(page.imagewidth, page.imagelength)
        pixels = page.asarray()
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = _coloured(page, pixels)
        orientation = page.tags.valueof(274) or 1
    pixels = in_rgb(pixels)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _coloured(page: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Gives the samples of a page of tifffile from black to white, whatever they were."""
    kind = page.photometric.name
    if kind == "PALETTE":
        return np.asarray((page.colormap[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0))
    if kind not in ("MINISBLACK", "MINISWHITE", "RGB", "YCBCR"):
        raise ValueError(f"photometric {kind}")
    if kind == "YCBCR" and page.compression.name not in ("JPEG", "OJPEG"):
        raise ValueError("photometric YCBCR")
    bits = page.bitspersample
    if bits < 8:
        pixels = (pixels.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    if kind == "MINISWHITE":
        pixels = np.iinfo(pixels.dtype).max - pixels
    return pixels


def in_rgb(pixels: npt.NDArray[Any]) -> RGB:
    """Brings samples (h, w) or (h, w, 1 to 4) to 8 bit RGB on white."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ValueError(f"samples of {pixels.dtype}")
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 3 or pixels.shape[2] > 4:
        raise ValueError(f"shape {pixels.shape}")
    colours = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    out = np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours
    if pixels.shape[2] in (2, 4):
        alpha = pixels[..., -1:].astype(np.float32) / 255
        out = np.floor(out * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(out, dtype=np.uint8)


OTHERS: Mapping[str, Callable[[Path], RGB]] = {
    "tifffile": by_tifffile,
    "libvips": by_libvips,
    "Pillow": by_pillow,
    "openslide": by_openslide,
}


if __name__ == "__main__":
    sys.exit(main())
