"""What is to be copied of a slide behind a URL: its files, their sizes and their versions."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from wsisr.errors import SlideError, WsisrError
from wsisr.urls import EXTRAS, file_system, name_of, reason_of, retried, scheme_of, shown

VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "generation",
    "VersionId",
    "LastModified",
    "Last-Modified",
    "mtime",
    "updated",
    "created",
)
"""What drivers tell of an object's version, in their own words."""
SIGNATURE = re.compile(r"(x-amz-|x-goog-|x-ms-)|(signature|expires|awsaccesskeyid|policy)$", re.I)
"""Parameters of a URL that grant access and do not name the object."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to be copied.

    Attributes:
        name: its path in the copy, with slashes.
        url: as the driver takes it.
        size: in bytes.
        version: what tells that it has changed.
        info: all that the driver says of it.
    """

    name: str
    url: str
    size: int
    version: str
    info: dict[str, Any]


@dataclass(frozen=True)
class RemoteSlide:
    """A slide behind a URL.

    Attributes:
        url: the URL as it was given; `shown(url)` names it.
        system: the driver.
        name: name of the file or folder that is opened.
        files: what is copied, companions first.
    """

    url: str
    system: Any
    name: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def key(self) -> str:
        """Names this version of the slide in the cache."""
        facts = [without_signature(self.url)]
        facts += [f"{file.name} {file.size} {file.version}" for file in self.files]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:24]


def without_signature(url: str) -> str:
    """Gives a URL without what grants access, so that each link to an object names the same."""
    parts = urlsplit(url)
    query = [(k, v) for k, v in parse_qsl(parts.query) if not SIGNATURE.match(k)]
    return urlunsplit((parts.scheme.lower(), parts.netloc, parts.path, urlencode(query), ""))


def find_slide(url: str) -> RemoteSlide:
    """Finds out what is to be copied of a slide.

    That is the file; for an MRXS the folder of its name beside it, too; for a URL that ends in a
    slash or in `.zarr` everything below.

    Raises:
        UsageError: the URL names no file, or no driver is installed.
        SlideError: the slide does not exist, or the server does not let it be read.
    """
    name = name_of(url)
    try:
        system, path = file_system(url)
        if urlsplit(url).path.endswith("/") or name.lower().endswith(".zarr"):
            files = _files_below(url, system, path.rstrip("/"), name)
        else:
            files = [describe_file(system, path, name)]
            if name.lower().endswith(".mrxs"):
                folder = PurePosixPath(name).stem
                below = path[: -len(".mrxs")]
                files = [*_files_below(url, system, below, folder), *files]
    except WsisrError:
        raise
    except Exception as error:
        raise SlideError(f"{shown(url)}: {reason_of(url, error)}") from None
    return RemoteSlide(url, system, name, tuple(files))


def describe_file(system: Any, path: str, name: str) -> RemoteFile:
    """Asks for size and version of a file.

    Raises:
        SlideError: the server does not tell the size.
        OSError: the driver's own errors.
    """
    return _file_of(retried(lambda: system.info(path)), path, name)


def _file_of(info: dict[str, Any], path: str, name: str) -> RemoteFile:
    if info.get("type") == "directory":
        raise FileNotFoundError(name)
    size = info.get("size")
    if size is None:
        raise SlideError(f"{name}: the server does not tell its size; download it first")
    known = {field: str(info[field]) for field in VERSION_FIELDS if info.get(field)}
    return RemoteFile(name, path, int(size), json.dumps(known, sort_keys=True), info)


def _files_below(url: str, system: Any, path: str, folder: str) -> list[RemoteFile]:
    if EXTRAS.get(scheme_of(url)) == "http":
        raise SlideError(
            f"{shown(url)}: a folder cannot be listed over http; download it first, or give s3://"
        )
    found = retried(lambda: system.find(path, detail=True))
    if not found:
        raise FileNotFoundError(folder)
    files = []
    for each, info in sorted(found.items()):
        inner = PurePosixPath(str(each).removeprefix(path).lstrip("/"))
        if ".." in inner.parts:
            raise SlideError(f"{shown(url)}: holds a name with '..'; copy it by other means")
        files.append(_file_of(info, each, f"{folder}/{inner}"))
    return files
