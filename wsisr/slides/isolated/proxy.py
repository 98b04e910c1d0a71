"""A slide that a child decodes, with the face of one that is decoded here."""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsisr.errors import SlideError, UsageError
from wsisr.slides.base import RGB, AssociatedImages, SlideInfo, StoredSlide
from wsisr.slides.isolated.decoder import VARIABLE, Decoder, DecoderDiedError, decoder

LARGEST_ASSOCIATED = 1 << 28
"""Pixels of a label, macro or thumbnail image."""

Damaged = set[tuple[str, int, int]]


def is_wanted() -> bool:
    """Tells whether slides are decoded in a child: where the environment variable says so."""
    return os.environ.get(VARIABLE) == "1"


def open_isolated(path: Path, *, cache_bytes: int, unreadable: Damaged | None) -> StoredSlide:
    """Opens a slide in the child; see `wsisr.slides.open_slide`.

    Args:
        path: the slide.
        cache_bytes: bound of the decoded tiles that the child keeps.
        unreadable: gets the damaged tiles that were met; None where they are errors.

    Returns:
        The open slide.

    Raises:
        SlideError: it cannot be opened, or its decoder died of it.
    """
    try:
        child = decoder()
    except DecoderDiedError as error:
        raise SlideError(
            f"{path} was not opened: the process that decodes {error}; give <trust_input> to do "
            "without"
        ) from error
    blank = unreadable is not None
    request = {"call": "open", "path": str(path), "cache_bytes": cache_bytes, "blank": blank}
    opened = _ask(child, path, request)
    remote = Remote(child, path, int(opened["number"]), unreadable)
    levels = [
        IsolatedPixels(remote, level, *map(int, size))
        for level, size in enumerate(opened["levels"])
    ]
    fields = {f.name: restored(opened["info"][f.name]) for f in dataclasses.fields(SlideInfo)}
    loaders: dict[str, Callable[[], RGB]] = {
        str(name): partial(remote.associated, str(name)) for name in opened["associated"]
    }
    info = SlideInfo(**fields)
    return StoredSlide(Path(opened["path"]), levels, info, AssociatedImages(loaders), remote.close)


@dataclass(frozen=True, eq=False)
class Remote:
    """An open slide in the child.

    Attributes:
        child: the process.
        path: the slide.
        number: its number there.
        unreadable: gets the damaged tiles.
    """

    child: Decoder
    path: Path
    number: int
    unreadable: Damaged | None

    def read(self, level: int, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region that lies inside the level."""
        out = np.empty((height, width, 3), np.uint8)
        region = [int(value) for value in (level, x, y, width, height)]
        request = {"call": "read", "number": self.number, "region": region}
        answer = _ask(self.child, self.path, request, out)
        if self.unreadable is not None:
            tiles = answer.get("damaged", ())
            self.unreadable.update((str(name), int(col), int(row)) for name, col, row in tiles)
        return out

    def associated(self, name: str) -> RGB:
        """Decodes an associated image."""
        # asked for twice: its size is not known before
        request = {"call": "associated", "number": self.number, "name": name}
        shape = tuple(map(int, _ask(self.child, self.path, {**request, "call": "shape"})["shape"]))
        if len(shape) != 3 or shape[2] != 3 or not 0 < shape[0] * shape[1] <= LARGEST_ASSOCIATED:
            raise SlideError(f"{self.path}: its {name} image of {shape} is no image")
        out = np.empty(shape, np.uint8)
        _ask(self.child, self.path, request, out)
        return out

    def close(self) -> None:
        """Closes it there."""
        with suppress(DecoderDiedError):
            if self.child.lives:
                self.child.ask({"call": "close", "number": self.number})


@dataclass(frozen=True)
class IsolatedPixels:
    """One level of a slide that the child decodes.

    Attributes:
        remote: the slide there.
        level: index of the level.
        width: in px.
        height: in px.
    """

    remote: Remote
    level: int
    width: int
    height: int

    def read(self, x: int, y: int, width: int, height: int) -> RGB:
        """Reads a region that lies inside the level, in its px."""
        return self.remote.read(self.level, x, y, width, height)


def _ask(
    child: Decoder, path: Path, request: dict[str, Any], into: RGB | None = None
) -> dict[str, Any]:
    """Asks the child, and raises here what it met there.

    Raises:
        SlideError: the slide cannot be read, or the child died of it.
        UsageError: what was asked for cannot be.
        MemoryError: the child ran out of memory.
    """
    try:
        answer = child.ask(request, into)
    except DecoderDiedError as error:
        raise SlideError(
            f"{path}: the process that decodes it {error}; the file is damaged or made to do harm, "
            "so check where it is from (<trust_input> would decode it in the run's own process)"
        ) from error
    for name, level, message in answer.get("logged", ()):
        logging.getLogger(str(name)).log(int(level), "%s", message)
    kind, message = answer.get("error"), str(answer.get("message"))
    if kind == "MemoryError":
        raise MemoryError(message)
    if kind is not None:
        raise (UsageError if kind == "UsageError" else SlideError)(message)
    return answer


def restored(value: Any) -> Any:
    """Makes a field of `SlideInfo` of its JSON."""
    if isinstance(value, dict):
        return base64.b64decode(value["base64"]) if "base64" in value else dict(value["map"])
    return tuple(value) if isinstance(value, list) else value
