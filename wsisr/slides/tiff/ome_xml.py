"""What an OME-XML text says of the images in a file (OME model, 2016-06)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from wsisr.slides.base import positive

MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "Å": 1e-4, "in": 25400.0,
}  # fmt: skip
MAX_XML = 32 << 20


@dataclass(frozen=True)
class OmeImage:
    """One Image element.

    ifd: index of its first image directory. mpp_x, mpp_y in um/px. planes: images of one sample
    it is made of, 1 where the samples of a pixel lie together. Sizes in px.
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
    """The images an OME-XML text describes, in order; none where it cannot be understood."""
    if len(text) > MAX_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return []
    # ElementTree refuses a declared encoding in text that is decoded already
    text = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
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
    element: ElementTree.Element,
    pixels: ElementTree.Element,
    following: int,
    objectives: dict[str, float | None],
) -> OmeImage:
    data = pixels.find("{*}TiffData")
    settings = element.find("{*}ObjectiveSettings")
    only = next(iter(objectives.values())) if len(objectives) == 1 else None
    magnification = objectives.get(str(settings.get("ID"))) if settings is not None else only
    counts = [_whole(pixels.get(name), 1) for name in ("SizeC", "SizeZ", "SizeT")]
    samples = [
        _whole(channel.get("SamplesPerPixel"), 1) for channel in pixels.iterfind("{*}Channel")
    ]
    return OmeImage(
        name=element.get("Name", ""),
        width=_whole(pixels.get("SizeX"), 0),
        height=_whole(pixels.get("SizeY"), 0),
        ifd=following if data is None else _whole(data.get("IFD"), following),
        planes=max(1, counts[0] // max(samples, default=1)) * counts[1] * counts[2],
        mpp_x=_size(pixels, "X"),
        mpp_y=_size(pixels, "Y"),
        magnification=magnification,
        other_file=data is not None and data.find("{*}UUID[@FileName]") is not None,
    )


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else default


def _size(pixels: ElementTree.Element, axis: str) -> float | None:
    size = positive(pixels.get(f"PhysicalSize{axis}"))
    unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or unit is None else size * unit
