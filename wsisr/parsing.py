"""Reads JSON and XML of any origin in bounded time and memory: the only home of both.

What a text becomes in memory is up to fifty times as large as the text, so it is estimated before
anything is parsed. Whatever is wrong ends in a `MalformedError`, whose text is one line without the
name of the file: the caller knows what the file is to its user.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np

MAX_JSON_BYTES = 16 << 20
"""The longest JSON text, and the longest feature of a GeoJSON file."""
MAX_GEOJSON_BYTES = 512 << 20
MAX_XML_CHARACTERS = 32 << 20
MAX_MEMORY = 256 << 20
"""What a text may become once it is parsed, in bytes."""
MAX_DEPTH = 64
MAX_DIGITS = 20
"""Digits of the longest whole number: those of 2^64."""
CHUNK_BYTES = 1 << 20

_SPACE = re.compile(r"[ \t\n\r]*")
_LIST_BYTES, _OBJECT_BYTES, _VALUE_BYTES, _CHARACTER_BYTES = 96, 240, 64, 4
_ELEMENT_BYTES, _ATTRIBUTE_BYTES = 200, 300


class MalformedError(ValueError):
    """A text that is not what it should be, or would take too much memory."""


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        max_bytes: the longest that is read.

    Returns:
        Its value; every number is finite.

    Raises:
        MalformedError: it is missing, cannot be read, or is not JSON within bounds.
    """
    return parse_json(read_bytes(path, max_bytes))


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON file that holds one object.

    Args:
        path: the file.
        max_bytes: the longest that is read.

    Raises:
        MalformedError: see `read_json`, or it holds something else.
    """
    return as_object(read_json(path, max_bytes=max_bytes))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Reads a file whole.

    Args:
        path: the file.
        max_bytes: the longest that is read.

    Raises:
        MalformedError: it is missing, no regular file, too long, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise MalformedError(f"it cannot be read: {error.strerror or 'no file'}") from error
    if len(data) > max_bytes:
        raise MalformedError(f"it is larger than {max_bytes >> 20} MB")
    return data


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; a pipe or a device, which may never end, is refused.

    Args:
        path: the file.

    Raises:
        OSError: it is missing, no regular file, or cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "it is no regular file")
    return path.open("rb")


def parse_json(data: bytes | str) -> Any:
    """Parses a JSON text of at most `MAX_JSON_BYTES`.

    Args:
        data: the text, as UTF-8 where it is bytes.

    Returns:
        Its value; every number is finite, and none has more than `MAX_DIGITS` digits in front of
        the point.

    Raises:
        MalformedError: it is not JSON, or out of bounds.
    """
    try:
        raw = data.encode() if isinstance(data, str) else data
        if len(raw) > MAX_JSON_BYTES:
            raise MalformedError(f"it is larger than {MAX_JSON_BYTES >> 20} MB")
        _check_bounds(raw)
        return json.loads(
            raw.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_bounded,
        )
    except MalformedError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedError(_one_line(error)) from error


def as_object(value: Any) -> dict[str, Any]:
    """Gives a JSON value that must be an object.

    Args:
        value: of `parse_json`.

    Raises:
        MalformedError: it is something else.
    """
    if not isinstance(value, dict):
        raise MalformedError("it is not a JSON object")
    return value


def _check_bounds(data: bytes) -> None:
    """Refuses a text, or a part of one, that is too deep or would become too large."""
    signs = np.frombuffer(data.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    quotes = signs == ord('"')
    # whether a sign stands in a text is told by the quotation marks before it, even or odd
    signs = np.where(np.cumsum(quotes, dtype=np.uint8) & 1, np.uint8(0), signs)
    counts = np.bincount(signs, minlength=128)
    lists, objects, further, named, texts = (int(counts[ord(sign)]) for sign in '[{,:"')
    memory = (
        lists * _LIST_BYTES
        + objects * _OBJECT_BYTES
        + (further + named + texts) * _VALUE_BYTES
        + int(counts[0]) * _CHARACTER_BYTES
    )
    if memory > MAX_MEMORY:
        raise MalformedError("it would take too much memory")
    steps = np.zeros(256, np.int8)
    steps[[ord("["), ord("{")]], steps[[ord("]"), ord("}")]] = 1, -1
    depths = np.cumsum(steps[signs], dtype=np.int32)
    # a part of a text may close what was opened before it
    if depths.size and int(depths.max() - min(0, depths.min())) > MAX_DEPTH:
        raise MalformedError(f"it is nested more than {MAX_DEPTH} deep")


def _refuse_constant(text: str) -> float:
    raise MalformedError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MalformedError(f"the number {text[:24]} is too large")
    return value


def _bounded(text: str) -> int:
    if len(text) > MAX_DIGITS + 1:
        raise MalformedError(f"the number {text[:24]}... is too large")
    return int(text)


def _one_line(error: BaseException) -> str:
    line = (str(error).splitlines() or [""])[0]
    return line[:200] or type(error).__name__


def read_features(path: Path) -> Iterator[Any]:
    """Reads a GeoJSON file feature by feature, so that memory does not grow with the file.

    Args:
        path: a file with a list of features, an object with such a list as `features`, or one
            feature or geometry.

    Yields:
        The features, or the one value; their fractions may be infinite.

    Raises:
        MalformedError: it is missing, longer than `MAX_GEOJSON_BYTES`, or not JSON within bounds.
    """
    try:
        with open_regular(path) as file:
            if path.stat().st_size > MAX_GEOJSON_BYTES:
                raise MalformedError(f"it is larger than {MAX_GEOJSON_BYTES >> 20} MB")
            yield from _Scanner(file).features()
    except OSError as error:
        raise MalformedError(f"it cannot be read: {error.strerror or 'no file'}") from error
    except UnicodeDecodeError as error:
        raise MalformedError("it is no UTF-8 text") from error


class _Scanner:
    """Takes the values of a JSON text one by one while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False

    def features(self) -> Iterator[Any]:
        """Yields the features, see `read_features`."""
        first = self._peek()
        if first == "[":
            yield from self._items()
        elif first == "{":
            yield from self._members()
        else:
            raise MalformedError("it is neither an object nor a list of JSON")
        if self._peek():
            raise MalformedError("something follows the end of its JSON")

    def _members(self) -> Iterator[Any]:
        """Goes through the members of the outermost object."""
        self._expect("{")
        whole: dict[str, Any] = {}
        listed = False
        size = 0
        while self._peek() != "}":
            if whole or listed:
                self._expect(",")
            name, _ = self._value()
            if not isinstance(name, str):
                raise MalformedError("a name of a member is no text")
            self._expect(":")
            if name == "features" and self._peek() == "[":
                listed = True
                yield from self._items()
                continue
            whole[name], taken = self._value()
            size += taken
            if size > MAX_JSON_BYTES:
                raise MalformedError(f"a part of it is larger than {MAX_JSON_BYTES >> 20} MB")
        self._expect("}")
        if not listed:
            yield whole

    def _items(self) -> Iterator[Any]:
        """Yields the items of a list."""
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield self._value()[0]
            if self._peek() == "]":
                self._at += 1
                return
            self._expect(",")

    def _expect(self, sign: str) -> None:
        if self._peek() != sign:
            raise MalformedError(f"{sign} is missing in its JSON")
        self._at += 1

    def _peek(self) -> str:
        """Gives the next sign that is no space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._more(CHUNK_BYTES)

    def _value(self) -> tuple[Any, int]:
        """Takes a value, and tells how many signs it has."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except MalformedError:
                raise
            except (ValueError, RecursionError) as error:
                if self._ended:
                    raise MalformedError(_one_line(error)) from error
                end = len(self._text)
            # a number at the end of what was read may go on
            if end < len(self._text) or self._ended:
                taken, self._at = end - self._at, end
                return value, taken
            if len(self._text) - self._at > MAX_JSON_BYTES:
                raise MalformedError(f"a part of it is larger than {MAX_JSON_BYTES >> 20} MB")
            self._more(max(CHUNK_BYTES, len(self._text) - self._at))

    def _more(self, size: int) -> None:
        """Reads on; a value is parsed only from what was found to be within bounds."""
        data = self._file.read(size)
        self._ended = len(data) < size
        self._text = self._text[self._at :] + self._decoder.decode(data, self._ended)
        self._at = 0
        _check_bounds(self._text.encode())


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_int=_bounded)


def parse_xml(text: str) -> ElementTree.Element:
    """Parses an XML text of at most `MAX_XML_CHARACTERS`, without a document type.

    Args:
        text: the text; an encoding that it declares is of no importance.

    Returns:
        Its outermost element.

    Raises:
        MalformedError: it is not XML, declares entities, or is out of bounds.
    """
    if len(text) > MAX_XML_CHARACTERS:
        raise MalformedError(f"its XML is larger than {MAX_XML_CHARACTERS >> 20} MB")
    memory = (
        text.count("<") * _ELEMENT_BYTES
        + text.count("=") * _ATTRIBUTE_BYTES
        + len(text) * _CHARACTER_BYTES
    )
    if memory > MAX_MEMORY:
        raise MalformedError("its XML would take too much memory")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise MalformedError("its XML declares a document type")
    # ElementTree refuses a declared encoding in text that is decoded already
    bare = re.sub(r"^\s*<\?xml[^>]*\?>", "", text)
    try:
        return ElementTree.fromstring(bare)
    except (ElementTree.ParseError, ValueError) as error:
        raise MalformedError(f"its XML is damaged: {_one_line(error)}") from error
