"""Reads what an OME-XML text says of the images in a file (OME model, 2016-06)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsisr.parsing import MalformedError, parse_xml
from wsisr.slides.base import ASSOCIATED, positive

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "fm": 1e-9, "pm": 1e-6, "nm": 1e-3, "mm": 1e3,
    "cm": 1e4, "dm": 1e5, "m": 1e6, "km": 1e9, "Å": 1e-4, "thou": 25.4, "in": 25400.0,
    "ft": 304800.0, "yd": 914400.0, "pt": 25400 / 72,
}  # fmt: skip
"""Units of length of the OME model; `pixel` and `reference frame` are no lengths."""
PURE = {"red": -16776961, "green": 16711935, "blue": 65535}
"""Colours of red, green and blue channels: RGBA as a signed number."""


@dataclass(frozen=True)
class OmeImage:
    """Holds what one Image element says.

    Attributes:
        name: its name, empty where it has none.
        width: in px.
        height: in px.
        ifd: index of its first image directory in this file.
        planes: images of one sample that it is made of, 1 where the samples of a pixel lie
            together.
        colours: image directories of red, green and blue, where it is made of these three planes;
            else empty.
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
    colours: tuple[int, ...]
    mpp_x: float | None
    mpp_y: float | None
    magnification: float | None
    other_file: bool

    @property
    def kind(self) -> str:
        """The name in small letters, without the `image` that some writers add."""
        return self.name.strip().lower().removesuffix(" image")

    @property
    def is_associated(self) -> bool:
        """Whether it is a label, a macro image or a thumbnail, by its name."""
        return self.kind in ASSOCIATED


def is_ome(description: str) -> bool:
    """Tells whether a text is OME-XML, of any prefix of its namespace."""
    return re.search(r"<([\w.-]+:)?OME[\s>]", description[: 1 << 16]) is not None


def parse_ome(text: str, file_name: str = "") -> list[OmeImage]:
    """Reads the images an OME-XML text describes, in order; none where it cannot be understood.

    Args:
        text: the document.
        file_name: name of the file that it describes, among the files of a set.
    """
    try:
        root = parse_xml(text)
    except MalformedError:
        return []
    objectives = {
        str(element.get("ID")): positive(element.get("NominalMagnification"))
        for element in root.iterfind(".//{*}Objective")
    }
    here = _File(file_name, root.get("UUID"))
    images = []
    following = 0
    for element in root.iterfind("{*}Image"):
        pixels = element.find("{*}Pixels")
        if pixels is not None:
            image = _image(element, pixels, following, objectives, here)
            if not image.other_file:
                following = image.ifd + image.planes
            images.append(image)
    return images


@dataclass(frozen=True)
class _File:
    """Tells which of the files of a set is this one."""

    name: str
    uuid: str | None

    def holds(self, data: Element) -> bool:
        """Tells whether the planes of a TiffData element lie in this file."""
        uuid = data.find("{*}UUID")
        if uuid is None:
            return True
        own = self.uuid is not None and (uuid.text or "").strip() == self.uuid
        # files are renamed more often than they change their identifier
        return own or uuid.get("FileName") in (None, self.name)


def _image(
    element: Element,
    pixels: Element,
    following: int,
    objectives: dict[str, float | None],
    here: _File,
) -> OmeImage:
    """Reads one Image element; its directories start at `following` where it names none."""
    listed = pixels.findall("{*}TiffData")
    own = [data for data in listed if here.holds(data)]
    settings = element.find("{*}ObjectiveSettings")
    only = next(iter(objectives.values())) if len(objectives) == 1 else None
    magnification = objectives.get(str(settings.get("ID"))) if settings is not None else only
    counts = [_count(pixels.get(name), 1) for name in ("SizeC", "SizeZ", "SizeT")]
    channels = pixels.findall("{*}Channel")
    samples = [_count(channel.get("SamplesPerPixel"), 1) for channel in channels]
    planes = max(1, counts[0] // max(samples, default=1)) * counts[1] * counts[2]
    places = _places(own, following, planes)
    order = _order(channels) if planes == counts[0] == 3 and places.keys() >= {0, 1, 2} else ()
    return OmeImage(
        name=element.get("Name", ""),
        width=_count(pixels.get("SizeX"), 0),
        height=_count(pixels.get("SizeY"), 0),
        ifd=places[min(places)] if places else following,
        planes=planes,
        colours=tuple(places[channel] for channel in order),
        mpp_x=_size(pixels, "X"),
        mpp_y=_size(pixels, "Y"),
        magnification=magnification,
        other_file=bool(listed) and not own,
    )


def _places(listed: Sequence[Element], following: int, planes: int) -> dict[int, int]:
    """Gives {channel: image directory} of the first depth and time, as TiffData elements say."""
    found: dict[int, int] = {}
    for data in listed:
        if any(_count(data.get(name), 0) for name in ("FirstZ", "FirstT")):
            continue
        named = data.get("IFD") is not None
        ifd, channel = _count(data.get("IFD"), following), _count(data.get("FirstC"), 0)
        count = _count(data.get("PlaneCount"), 1 if named else planes)
        for step in range(min(count, planes)):
            found.setdefault(channel + step, ifd + step)
    return found or {channel: following + channel for channel in range(min(planes, 3))}


def _order(channels: Sequence[Element]) -> tuple[int, ...]:
    """Tells which of three channels are red, green and blue; empty where they are others."""
    names = [channel.get("Name", "").strip().lower() for channel in channels]
    colours = [channel.get("Color") for channel in channels]
    numbers = [
        int(text) if text and re.fullmatch(r"-?[0-9]{1,10}", text) else 0 for text in colours
    ]
    if sorted(names) == sorted(PURE):
        return tuple(names.index(name) for name in PURE)
    if sorted(numbers) == sorted(PURE.values()):
        return tuple(numbers.index(number) for number in PURE.values())
    return () if any(names) or any(colours) else (0, 1, 2)


def _count(text: str | None, default: int) -> int:
    """Reads a count of up to nine digits; anything else gives the default."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else default


def _size(pixels: Element, axis: str) -> float | None:
    """Reads the size of a pixel in um; None where it or its unit is not known."""
    size = positive(pixels.get(f"PhysicalSize{axis}"))
    unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return None if size is None or unit is None else size * unit
