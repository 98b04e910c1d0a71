"""Opens slides of the TIFF family directly: Aperio SVS, OME-TIFF, tiled pyramids, plain TIFF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsisr.errors import SlideError
from wsisr.formats import ResolutionUnit, SubfileType, TagId
from wsisr.slides.base import (
    ASSOCIATED,
    BLACK,
    RGB,
    WHITE,
    AssociatedImages,
    LevelPixels,
    SlideInfo,
    StoredSlide,
    mean_mpp,
    microscopic,
    positive,
)
from wsisr.slides.cache import CACHE_BYTES, TileCache
from wsisr.slides.profiles import fitting_profile
from wsisr.slides.tiff.bytes_at import BytesAt
from wsisr.slides.tiff.ifd import Ifd, read_ifds
from wsisr.slides.tiff.indirect import indirect_level
from wsisr.slides.tiff.level import TiffLevel
from wsisr.slides.tiff.ome_xml import OmeImage, is_ome, parse_ome
from wsisr.slides.tiff.pieces import (
    NotDirectError,
    image_size,
    is_tiled,
    joined_planes,
    piece_grid,
)
from wsisr.slides.turned import UPRIGHT, turned

MICROMETRES_PER_UNIT: dict[int, float] = {
    ResolutionUnit.INCH: 25400.0,
    ResolutionUnit.CENTIMETRE: 10000.0,
}
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
        orientation: how the image is to be turned, see `wsisr.slides.turned`.
        more: directories of the further planes of each level; empty where one has all samples.
    """

    levels: Sequence[Ifd]
    associated: Mapping[str, Ifd]
    info: SlideInfo
    orientation: int = UPRIGHT
    more: Sequence[tuple[Ifd, ...]] = ()


def open_tiff(
    path: Path,
    *,
    cache_bytes: int = CACHE_BYTES,
    unreadable: set[tuple[str, int, int]] | None = None,
    marks: bool = False,
) -> StoredSlide:
    """Opens a TIFF file whose tiles (or strips) are decoded here.

    Args:
        path: the file.
        cache_bytes: bound of the decoded tiles that are kept; one tile always is.
        unreadable: where given, what cannot be decoded is recorded in it, see `TiffLevel`.
        marks: whether it marks parts of a slide, see `open_marks`.

    Returns:
        The open slide.

    Raises:
        NotDirectError: the file has to be read by another library.
        SlideError: the file is damaged.
    """
    source = BytesAt(path)
    try:
        return _open(path, source, TileCache(cache_bytes), unreadable, marks)
    except BaseException:
        source.close()
        raise


def _open(
    path: Path,
    source: BytesAt,
    cache: TileCache,
    unreadable: set[tuple[str, int, int]] | None,
    marks: bool,
) -> StoredSlide:
    """Makes a slide of an open file."""
    ifds = read_ifds(source)
    if not ifds:
        raise SlideError(f"{path} is a TIFF file without images; copy or download it again")
    layout = layout_of(path, ifds)
    ordered = sorted(layout.levels, key=lambda ifd: math.prod(image_size(ifd)), reverse=True)
    check_pieces(path, layout)
    levels: list[LevelPixels] = []
    info = replace(layout.info, background=BLACK) if marks else layout.info
    for index, ifd in enumerate(ordered):
        try:
            grid = piece_grid(ifd)
            if layout.more:
                further = layout.more[layout.levels.index(ifd)]
                grid = joined_planes(grid, [piece_grid(each) for each in further])
        except NotDirectError as reason:
            if info.vendor == "aperio":
                raise
            if layout.more:
                raise SlideError(
                    f"{path} stores red, green and blue apart, and {reason}; convert it to a "
                    "tiled RGB TIFF"
                ) from reason
            indirect = indirect_level(path, ifds, ifd, reason, marks=marks)
            if index == 0:
                info = replace(info, icc_profile=fitting_profile(path, indirect.icc_profile))
            levels.append(turned(indirect, layout.orientation))
            continue
        if info.vendor == "aperio" and index and (grid.lengths == 0).any():
            raise NotDirectError(
                "tiles that a lower level lacks are to be made from the level above"
            )
        level = TiffLevel(
            source,
            grid,
            cache,
            name=f"level {index}",
            background=info.background,
            unreadable=unreadable,
        )
        levels.append(turned(level, layout.orientation))
    loaders = {
        name: lambda name=name, ifd=ifd: associated_image(source, ifd, name)
        for name, ifd in layout.associated.items()
    }

    def close() -> None:
        cache.clear()
        source.close()

    return StoredSlide(path, levels, info, AssociatedImages(loaders), close)


def check_pieces(path: Path, layout: Layout) -> None:
    """Makes sure that the levels have no more pieces than those of a slide.

    Raises:
        SlideError: they have.
    """
    pieces = 0
    for ifd in layout.levels:
        with suppress(NotDirectError):
            pieces += piece_grid(ifd).lengths.size
        if len(layout.levels) > MAX_LEVELS or pieces > MAX_PIECES:
            raise SlideError(f"{path} has more levels or tiles than a slide; check the file")


def layout_of(path: Path, ifds: Sequence[Ifd]) -> Layout:
    """Tells the parts of a file, by its kind."""
    description = ifds[0].text(TagId.IMAGE_DESCRIPTION)
    images = parse_ome(description, path.name) if is_ome(description) else []
    if images:
        return ome_layout(path, ifds, images)
    if description.startswith("Aperio") and is_tiled(ifds[0]):
        return aperio_layout(path, ifds, description)
    return generic_layout(path, ifds, description)


def generic_layout(path: Path, ifds: Sequence[Ifd], description: str) -> Layout:
    """Takes the first image and the reduced ones of its shape, in the main chain or its SubIFDs."""
    base = next((ifd for ifd in ifds if not is_mask(ifd)), ifds[0])
    levels = [base, *reduced_versions(base, [*base.children, *ifds])]
    info = SlideInfo(
        vendor="generic-tiff",
        mpp=resolution(path, base),
        icc_profile=profile_of(path, base),
        properties={"tiff.ImageDescription": description} if description else {},
    )
    return Layout(unique(levels), {}, info, base.integer(TagId.ORIENTATION, UPRIGHT))


def reduced_versions(base: Ifd, candidates: Sequence[Ifd]) -> list[Ifd]:
    """Picks those marked as reduced that have the shape of `base`, to two pixels or 1 %."""
    width, height = image_size(base)
    found = []
    for ifd in candidates:
        wide, high = image_size(ifd)
        alike = abs(wide * height - high * width) <= max(
            2 * max(width, height), wide * height // 100
        )
        reduced = ifd.integer(TagId.NEW_SUBFILE_TYPE, 0) & SubfileType.REDUCED_IMAGE
        smaller = 0 < wide <= width and 0 < high <= height
        if reduced and smaller and alike and has_samples_of(base, ifd):
            found.append(ifd)
    return found


def is_mask(ifd: Ifd) -> bool:
    """Tells whether an image says where another one is transparent."""
    return bool(ifd.integer(TagId.NEW_SUBFILE_TYPE, 0) & SubfileType.TRANSPARENCY_MASK)


def has_samples_of(base: Ifd, ifd: Ifd) -> bool:
    """Tells whether an image has as many samples, as deep, as another: a mask has not."""
    samples = (each.integer(TagId.SAMPLES_PER_PIXEL, 1) for each in (base, ifd))
    bits = (each.integer(TagId.BITS_PER_SAMPLE, 1) for each in (base, ifd))
    return not is_mask(ifd) and len(set(samples)) == 1 and len(set(bits)) == 1


def aperio_layout(path: Path, ifds: Sequence[Ifd], description: str) -> Layout:
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
        icc_profile=profile_of(path, ifds[0]),
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
    here = [image for image in images if not image.other_file]
    if not here:
        raise SlideError(f"{path} is one file of a set of OME-TIFFs; convert the set to one file")
    slides = [image for image in here if not image.is_associated]
    main = max(slides or here, key=lambda image: image.width * image.height)
    if main.planes > 1 and not main.colours:
        raise SlideError(
            f"{path} stores {main.planes} planes (channels, depths or times) apart; only "
            "brightfield RGB slides of one plane can be read"
        )
    if max(main.ifd, *main.colours, 0) >= len(ifds):
        raise SlideError(
            f"{path} is damaged: its OME-XML refers to image {main.ifd} of {len(ifds)}"
        )
    if main.colours:
        return three_planes(path, ifds, main)
    base = ifds[main.ifd]
    levels = [base, *reduced_versions(base, [*base.children, *ifds])]
    associated = {
        image.kind: ifds[image.ifd]
        for image in here
        if image.is_associated and image is not main and image.ifd < len(ifds)
    }
    return Layout(unique(levels), associated, ome_info(path, ifds, main))


def ome_info(path: Path, ifds: Sequence[Ifd], main: OmeImage) -> SlideInfo:
    """Gives what an OME-XML says of a slide."""
    base = ifds[main.ifd]
    mpp = mean_mpp(path, main.mpp_x, main.mpp_y)
    return SlideInfo(
        vendor="ome-tiff",
        mpp=resolution(path, base) if mpp is None else mpp,
        magnification=main.magnification,
        icc_profile=profile_of(path, base),
        properties={"tiff.ImageDescription": ifds[0].text(TagId.IMAGE_DESCRIPTION)},
    )


def three_planes(path: Path, ifds: Sequence[Ifd], main: OmeImage) -> Layout:
    """Takes the planes of red, green and blue together, level by level."""
    planes = [unique([ifds[at], *reduced_versions(ifds[at], ifds[at].children)])
              for at in main.colours]  # fmt: skip
    count = min(map(len, planes))
    more = [tuple(plane[level] for plane in planes[1:]) for level in range(count)]
    return Layout(planes[0][:count], {}, ome_info(path, ifds, main), more=more)


def profile_of(path: Path, ifd: Ifd) -> bytes | None:
    """Reads the ICC profile of an image; None where there is none that fits RGB pixels."""
    return fitting_profile(path, ifd.optional(TagId.ICC_PROFILE))


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
    return microscopic(path, mean_mpp(path, mpp_x, mpp_y))


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
