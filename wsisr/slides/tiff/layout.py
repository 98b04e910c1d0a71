"""Opens slides of the TIFF family directly: Aperio SVS, OME-TIFF, tiled pyramids, plain TIFF."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsisr.errors import SlideError
from wsisr.formats import ResolutionUnit, SubfileType, TagId
from wsisr.slides.base import (
    ASSOCIATED,
    RGB,
    WHITE,
    AssociatedImages,
    LevelPixels,
    SlideInfo,
    StoredSlide,
    mean_mpp,
    positive,
)
from wsisr.slides.cache import CACHE_BYTES, TileCache
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.ifd import Ifd, read_ifds
from wsisr.slides.tiff.level import TiffLevel
from wsisr.slides.tiff.ome_xml import OmeImage, parse_ome
from wsisr.slides.tiff.pieces import NotDirectError, PieceGrid, image_size, is_tiled, piece_grid

log = logging.getLogger(__name__)

MICROMETRES_PER_UNIT: dict[int, float] = {
    ResolutionUnit.INCH: 25400.0,
    ResolutionUnit.CENTIMETRE: 10000.0,
}
PRINT_MPP = 30.0
"""Resolution tags coarser than this (850 dpi) are settings for printers, not pixel sizes."""
MAX_LEVELS = 256
MAX_PIECES = 1 << 24
"""Tiles of all levels together; a slide of a million pixels a side has so many of 256 px."""
MAX_FIELDS = 1 << 16
"""Characters of Aperio's description that are looked at."""
MAX_ASSOCIATED = 64 << 20
"""Pixels of the largest associated image that is decoded."""


@dataclass(frozen=True)
class Layout:
    """Tells which directories of a file are what.

    Attributes:
        levels: the stored resolutions.
        associated: label, macro and thumbnail by name.
        info: what is known of the slide.
    """

    levels: Sequence[Ifd]
    associated: Mapping[str, Ifd]
    info: SlideInfo


def open_tiff(
    path: Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    unreadable: set[tuple[str, int, int]] | None = None,
) -> StoredSlide:
    """Opens a TIFF file whose tiles (or strips) are decoded here.

    Args:
        path: the file.
        cache_bytes: bound of the decoded tiles that are kept; one tile always is.
        unreadable: where given, what cannot be decoded is recorded in it, see `TiffLevel`.

    Returns:
        The open slide.

    Raises:
        NotDirectError: the file has to be read by another library.
        SlideError: the file is damaged.
    """
    source = BytesAt(path)
    try:
        return _open(path, source, TileCache(cache_bytes), unreadable)
    except BaseException:
        source.close()
        raise


def _open(
    path: Path, source: BytesAt, cache: TileCache, unreadable: set[tuple[str, int, int]] | None
) -> StoredSlide:
    """Makes a slide of an open file."""
    ifds = read_ifds(source)
    if not ifds:
        raise SlideError(f"{path} is a TIFF file without images; copy or download it again")
    layout = layout_of(path, ifds)
    grids = sorted(
        grids_of(path, layout.levels), key=lambda grid: grid.width * grid.height, reverse=True
    )
    if layout.info.vendor == "aperio" and any((grid.lengths == 0).any() for grid in grids[1:]):
        raise NotDirectError("tiles that a lower level lacks are to be made from the level above")
    levels: list[LevelPixels] = [
        TiffLevel(
            source,
            grid,
            cache,
            name=f"level {index}",
            background=layout.info.background,
            unreadable=unreadable,
        )
        for index, grid in enumerate(grids)
    ]
    loaders = {
        name: lambda name=name, ifd=ifd: associated_image(source, ifd, name)
        for name, ifd in layout.associated.items()
    }

    def close() -> None:
        cache.clear()
        source.close()

    return StoredSlide(path, levels, layout.info, AssociatedImages(loaders), close)


def grids_of(path: Path, levels: Sequence[Ifd]) -> list[PieceGrid]:
    """Reads how the levels are cut into pieces.

    Raises:
        NotDirectError: the file has to be read by another library.
        SlideError: the file is damaged, or has more levels or pieces than a slide.
    """
    grids: list[PieceGrid] = []
    pieces = 0
    for ifd in levels:
        grids.append(piece_grid(ifd))
        pieces += grids[-1].lengths.size
        if len(grids) > MAX_LEVELS or pieces > MAX_PIECES:
            raise SlideError(f"{path} has more levels or tiles than a slide; check the file")
    return grids


def layout_of(path: Path, ifds: Sequence[Ifd]) -> Layout:
    """Tells the parts of a file, by its kind."""
    description = ifds[0].text(TagId.IMAGE_DESCRIPTION)
    images = parse_ome(description) if "<OME" in description[:4096] else []
    if images:
        return ome_layout(path, ifds, images)
    if description.startswith("Aperio") and is_tiled(ifds[0]):
        return aperio_layout(ifds, description)
    return generic_layout(path, ifds, description)


def generic_layout(path: Path, ifds: Sequence[Ifd], description: str) -> Layout:
    """Takes the first image and the reduced ones of its shape, in the main chain or its SubIFDs."""
    levels = [ifds[0], *reduced_versions(ifds[0], [*ifds[0].children, *ifds[1:]])]
    info = SlideInfo(
        vendor="generic-tiff",
        mpp=resolution(path, ifds[0]),
        icc_profile=ifds[0].raw(TagId.ICC_PROFILE) or None,
        properties={"tiff.ImageDescription": description} if description else {},
    )
    return Layout(levels, {}, info)


def reduced_versions(base: Ifd, candidates: Sequence[Ifd]) -> list[Ifd]:
    """Picks those marked as reduced that have the shape of `base`, to two pixels or 1 %."""
    width, height = image_size(base)
    found = []
    for ifd in candidates:
        wide, high = image_size(ifd)
        alike = abs(wide * height - high * width) <= max(
            2 * max(width, height), wide * height // 100
        )
        if (
            ifd.integer(TagId.NEW_SUBFILE_TYPE, 0) & SubfileType.REDUCED_IMAGE
            and min(wide, high) > 0
            and alike
        ):
            found.append(ifd)
    return found


def aperio_layout(ifds: Sequence[Ifd], description: str) -> Layout:
    """Takes tiled images as levels; the second one and those named in their description are not."""
    parts = [part.partition("=") for part in description[:MAX_FIELDS].split("|")[1:] if "=" in part]
    fields = {key.strip(): value.strip() for key, _, value in parts}
    associated = {}
    for index, ifd in enumerate(ifds):
        if not is_tiled(ifd):
            name = (
                "thumbnail"
                if index == 1
                else aperio_name(ifd.text(TagId.IMAGE_DESCRIPTION, MAX_FIELDS))
            )
            if name in ASSOCIATED:
                associated[name] = ifd
    info = SlideInfo(
        vendor="aperio",
        mpp=positive(fields.get("MPP")),
        magnification=positive(fields.get("AppMag")),
        icc_profile=ifds[0].raw(TagId.ICC_PROFILE) or None,
        properties={
            "tiff.ImageDescription": description,
            **{f"aperio.{key}": value for key, value in fields.items()},
        },
    )
    return Layout([ifd for ifd in ifds if is_tiled(ifd)], associated, info)


def aperio_name(description: str) -> str:
    """Reads the first word of the second line, e.g. of `label 387x463`."""
    lines = description.splitlines()
    return (lines[1].split() or [""])[0] if len(lines) > 1 else ""


def ome_layout(path: Path, ifds: Sequence[Ifd], images: Sequence[OmeImage]) -> Layout:
    """Takes the largest image that is not an associated one, and its SubIFDs (OME-TIFF 6.0)."""
    named = {image.name.strip().lower().removesuffix(" image"): image for image in images}
    slides = [
        image
        for image in images
        if image.name.strip().lower().removesuffix(" image") not in ASSOCIATED
    ]
    main = max(slides or images, key=lambda image: image.width * image.height)
    if main.other_file and main.ifd >= len(ifds):
        raise SlideError(f"{path} is one file of a set of OME-TIFFs; convert the set to one file")
    if main.planes > 1:
        raise SlideError(
            f"{path} stores {main.planes} planes (channels, depths or times) apart; only "
            "brightfield RGB slides of one plane can be read"
        )
    if main.ifd >= len(ifds):
        raise SlideError(
            f"{path} is damaged: its OME-XML refers to image {main.ifd} of {len(ifds)}"
        )
    base = ifds[main.ifd]
    levels = [base, *reduced_versions(base, [*base.children, *ifds])]
    mpp = mean_mpp(path, main.mpp_x, main.mpp_y)
    info = SlideInfo(
        vendor="ome-tiff",
        mpp=resolution(path, base) if mpp is None else mpp,
        magnification=main.magnification,
        icc_profile=base.raw(TagId.ICC_PROFILE) or None,
        properties={"tiff.ImageDescription": ifds[0].text(TagId.IMAGE_DESCRIPTION)},
    )
    associated = {
        name: ifds[image.ifd]
        for name, image in named.items()
        if name in ASSOCIATED and image is not main and image.ifd < len(ifds)
    }
    return Layout(unique(levels), associated, info)


def unique(ifds: Sequence[Ifd]) -> list[Ifd]:
    """Keeps one directory of each size: a hybrid pyramid links its levels twice."""
    return list({image_size(ifd): ifd for ifd in reversed(ifds)}.values())[::-1]


def resolution(path: Path, ifd: Ifd) -> float | None:
    """Reads the pixel size in um from the resolution tags; None where they are for printing."""
    unit = MICROMETRES_PER_UNIT.get(ifd.integer(TagId.RESOLUTION_UNIT, ResolutionUnit.INCH))
    per_unit = [ifd.number(tag) for tag in (TagId.X_RESOLUTION, TagId.Y_RESOLUTION)]
    if unit is None:
        return None
    mpp_x, mpp_y = (unit / value if value and value > 0 else None for value in per_unit)
    mpp = mean_mpp(path, mpp_x, mpp_y)
    if mpp is not None and mpp > PRINT_MPP:
        log.info("%s: its resolution of %.0f um a pixel is a print setting, not used", path, mpp)
        return None
    return mpp


def associated_image(source: BytesAt, ifd: Ifd, name: str) -> RGB:
    """Decodes an associated image whole."""
    try:
        grid = piece_grid(ifd)
    except NotDirectError as error:
        raise SlideError(f"{source.path}: the {name} image cannot be decoded ({error})") from error
    if grid.width * grid.height > MAX_ASSOCIATED:
        raise SlideError(f"{source.path}: the {name} image is too large; do without it")
    level = TiffLevel(source, grid, TileCache(0), name=name, background=WHITE)
    return level.read(0, 0, grid.width, grid.height)
