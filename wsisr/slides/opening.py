"""Chooses the reader that takes a file."""

from __future__ import annotations

import logging
from pathlib import Path

import openslide

from wsisr.errors import SlideError
from wsisr.slides.base import Slide
from wsisr.slides.cache import CACHE_BYTES
from wsisr.slides.isolated import is_wanted, open_isolated
from wsisr.slides.ngff import is_zarr, open_zarr
from wsisr.slides.openslide_reader import open_vendor
from wsisr.slides.plain import open_plain, plain_kind
from wsisr.slides.tiff import NotDirectError, open_tiff

log = logging.getLogger(__name__)

READABLE = "SVS, NDPI, MRXS, SCN, BIF, DICOM, TIFF, OME-TIFF, OME-Zarr, PNG, JPEG, WebP, GIF, AVIF"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DIRECT = ("aperio", "generic-tiff", None)
"""What openslide calls the TIFF files that are decoded here; None for those it does not know."""


def open_marks(path: Path) -> Slide:
    """Opens an image that marks parts of a slide: a mask, an overlay, labels of any depth.

    What is not marked is black in it: transparent pixels, and samples of 0. Of samples of more
    than 8 bits it is only seen whether they are 0.

    Args:
        path: the file, of any format that `open_slide` reads.

    Returns:
        The open image.

    Raises:
        SlideError: see `open_slide`.
    """
    return open_slide(path, marks=True)


def open_slide(
    path: str | Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    unreadable: set[tuple[str, int, int]] | None = None,
    marks: bool = False,
) -> Slide:
    """Opens a slide of any readable format.

    These are openslide's formats (SVS, NDPI, MRXS, SCN, BIF, DICOM, ...), OME-TIFF and other TIFF
    files, OME-Zarr, and plain images (PNG, JPEG, WebP, GIF, AVIF).

    Args:
        path: the file, or the folder of an OME-Zarr or a DICOM slide.
        cache_bytes: bound of the decoded tiles that are kept.
        unreadable: where given, damaged tiles (of formats that openslide reads, squares of 256 px)
            are recorded in it as (`level N`, column, row) and read as background. Where None, and
            for plain images, they are errors.
        marks: whether the image is read as `open_marks` has it.

    Returns:
        The open slide; close it, or use it in a `with` statement.

    Raises:
        SlideError: a file that is missing, empty, damaged, of an unknown format, or whose declared
            size its bytes cannot hold. The message names the file and the remedy.
    """
    path = Path(path)
    if is_wanted():
        return open_isolated(path, cache_bytes=cache_bytes, unreadable=unreadable)
    if path.is_dir():
        return _open_folder(path, unreadable)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except FileNotFoundError as error:
        raise SlideError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise SlideError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error
    if not head:
        raise SlideError(f"{path} is empty (0 bytes); copy or download it again")
    kind = plain_kind(head)
    if kind is not None:
        return open_plain(path, kind, marks=marks)
    vendor = openslide.OpenSlide.detect_format(str(path))
    if head.startswith(TIFF) and vendor in DIRECT:
        try:
            return open_tiff(path, cache_bytes=cache_bytes, unreadable=unreadable, marks=marks)
        except NotDirectError as reason:
            log.info("%s is read by openslide, for %s", path, reason)
    if vendor is not None:
        return open_vendor(path, cache_bytes=cache_bytes, unreadable=unreadable)
    raise SlideError(
        f"{path} is not a slide this can read ({READABLE}), or it is damaged; "
        "check the file or convert it to one of these"
    )


def _open_folder(path: Path, unreadable: set[tuple[str, int, int]] | None) -> Slide:
    """Opens a folder that is a slide."""
    if is_zarr(path):
        return open_zarr(path, unreadable=unreadable)
    files = sorted(path.iterdir())
    dicom = [file for file in files if file.suffix.lower() == ".dcm"]
    if dicom:
        # a collection of slides is no slide, though one of them may be DICOM
        for file in files:
            if file not in dicom and openslide.OpenSlide.detect_format(str(file)):
                raise SlideError(
                    f"{path} is a folder of several slides ({file.name} is one); give one of them"
                )
        return open_vendor(dicom[0], unreadable=unreadable)
    raise SlideError(f"{path} is a folder, and no OME-Zarr or DICOM slide; give a slide file")
