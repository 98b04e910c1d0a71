"""Reads what an OME-XML text says of the images in a file (OME model, 2016-06)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsisr.parsing import MalformedError, parse_xml
from wsisr.slides.base import positive

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "Å": 1e-4, "in": 25400.0,
}  # fmt: skip


@dataclass(frozen=True)
class OmeImage:
    """Holds what one Image element says.

    Attributes:
        name: its name, empty where it has none.
        width: in px.
        height: in px.
        ifd: index of its first image directory.
        planes: images of one sample that it is made of, 1 where the samples of a pixel lie
            together.
        mpp_x: um/px across, or None.
        mpp_y: um/px down, or None.
        magnification: nominal magnification, or None.
        other_file: whether its pixels lie in another file.
    """

    name: str
    width: int
    height: int
    ifd: int
    planes: int
    mpp_x: float | None
    mpp_y: float | None
    magnification: float | None
    other_file: bool


def parse_ome(text: str) -> list[OmeImage]:
    """Reads the images an OME-XML text describes, in order; none where it cannot be understood."""
    try:
        root = parse_xml(text)
    except MalformedError:
        return []
    objectives = {
        str(element.get("ID")): positive(element.get("NominalMagnification"))
        for element in root.iterfind(".//{*}Objective")
    }
    images = []
    following = 0
    for element in root.iterfind("{*}Image"):
        pixels = element.find("{*}Pixels")
        if pixels is not None:
            image = _image(element, pixels, following, objectives)
            following = image.ifd + image.planes
            images.append(image)
    return images


def _image(
    element: Element,
    pixels: Element,
    following: int,
    objectives: dict[str, float | None],
) -> OmeImage:
    """Reads one Image element; its directories start at `following` where it names none."""
    data = pixels.find("{*}TiffData")
    settings = element.find("{*}ObjectiveSettings")
    only = next(iter(objectives.values())) if len(objectives) == 1 else None
    magnification = objectives.get(str(settings.get("ID"))) if settings is not None else only
    counts = [_count(pixels.get(name), 1) for name in ("SizeC", "SizeZ", "SizeT")]
    samples = [
        _count(channel.get("SamplesPerPixel"), 1) for channel in pixels.iterfind("{*}Channel")
    ]
    return OmeImage(
        name=element.get("Name", ""),
        width=_count(pixels.get("SizeX"), 0),
        height=_count(pixels.get("SizeY"), 0),
        ifd=following if data is None else _count(data.get("IFD"), following),
        planes=max(1, counts[0] // max(samples, default=1)) * counts[1] * counts[2],
        mpp_x=_size(pixels, "X"),
        mpp_y=_size(pixels, "Y"),
        magnification=magnification,
        other_file=data is not None and data.find("{*}UUID[@FileName]") is not None,
    )


def _count(text: str | None, default: int) -> int:
    """Reads a count of up to nine digits; anything else gives the default."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else default


def _size(pixels: Element, axis: str) -> float | None:
    """Reads the size of a pixel in um; None where it or its unit is not known."""
    size = positive(pixels.get(f"PhysicalSize{axis}"))
    unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or unit is None else size * unit
