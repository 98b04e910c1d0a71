"""Copies the files of a remote slide: ranges, several at once, gone on with after a drop."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsisr.errors import OutputError, SlideError
from wsisr.files import sync_folder
from wsisr.scaleout.remote.listing import RemoteFile, RemoteSlide
from wsisr.urls import EXTRAS, TRIES, is_lasting, pause, reason_of, scheme_of, shown

BLOCK = 8 << 20
BLOCKS_AT_ONCE = 4
"""So many blocks are held in memory, and asked for together: a single stream is slow far away."""
MD5 = re.compile(r'"?([0-9a-f]{32})"?')
"""The ETag of an object that was put in one piece."""


Report = Callable[[int, int], None]
"""Called with the bytes that are there and all of them; what it raises ends the copy."""


def download(slide: RemoteSlide, folder: Path, report: Report) -> None:
    """Copies all files of a slide; what is there already is not copied again.

    Args:
        slide: the slide.
        folder: where its files go; it is made.
        report: called between blocks.

    Raises:
        SlideError: the server fails again and again, or gives other bytes than it says.
        OutputError: the disk refused.
    """
    try:
        folder.mkdir(exist_ok=True)
        there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if slide.size - there > shutil.disk_usage(folder).free:
            raise OSError(errno.ENOSPC, "No space left on device")
        before = 0
        for file in slide.files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(slide, file, path, before, report)
            _check(slide, file, path)
            before += file.size
        sync_folder(folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                f"{shown(slide.url)}: the disk is full; make room on {folder.parent}, or give "
                "another folder by <cache>"
            ) from error
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error


def _fetch(slide: RemoteSlide, file: RemoteFile, path: Path, before: int, report: Report) -> None:
    """Appends what is missing of a file, in the order of its bytes."""
    failures = 0
    with path.open("ab") as copy:
        if copy.tell() > file.size:
            copy.truncate(0)
        while (start := copy.tell()) < file.size:
            report(before + start, slide.size)
            blocks, error = _read(slide.system, file, start)
            for block in blocks:
                copy.write(block)
            copy.flush()
            if error is None:
                continue
            failures = 1 if blocks else failures + 1
            if is_lasting(error) or failures >= TRIES:
                raise SlideError(f"{shown(slide.url)}: {reason_of(slide.url, error)}")
            pause(failures)


def _read(system: Any, file: RemoteFile, start: int) -> tuple[list[bytes], Exception | None]:
    """Reads the next blocks, as far as they come without an error between them."""
    starts = list(range(start, min(file.size, start + BLOCKS_AT_ONCE * BLOCK), BLOCK))
    ends = [min(file.size, each + BLOCK) for each in starts]
    try:
        found = system.cat_ranges([file.url] * len(starts), starts, ends, on_error="return")
    except Exception as error:
        return [], error
    blocks: list[bytes] = []
    for block, first, end in zip(found, starts, ends, strict=True):
        if isinstance(block, Exception):
            return blocks, block
        if len(block) == file.size and not first:
            # a server without ranges sends all of it
            return [block], None
        if len(block) != end - first:
            return blocks, ConnectionError("short")
        blocks.append(block)
    return blocks, None


def _check(slide: RemoteSlide, file: RemoteFile, path: Path) -> None:
    """Compares a copy with the digest that the server tells, where that is one of the bytes."""
    wanted = _known_md5(slide, file)
    if wanted is None:
        return
    with path.open("rb") as copy:
        found = hashlib.file_digest(copy, "md5").hexdigest()
    if found == wanted or _is_encrypted(slide, file):
        return
    path.unlink()
    raise SlideError(f"{shown(slide.url)}: came with another MD5 than announced; run again")


def _known_md5(slide: RemoteSlide, file: RemoteFile) -> str | None:
    for field in ("md5Hash", "Content-MD5"):
        if file.info.get(field):
            return base64.b64decode(file.info[field]).hex()
    etag = MD5.fullmatch(str(file.info.get("ETag", "")))
    return etag[1] if etag and EXTRAS.get(scheme_of(slide.url)) == "s3" else None


def _is_encrypted(slide: RemoteSlide, file: RemoteFile) -> bool:
    """Tells whether an ETag of S3 is no MD5, because the object is encrypted with a key."""
    if EXTRAS.get(scheme_of(slide.url)) != "s3":
        return False
    bucket, key, _ = slide.system.split_path(file.url)
    try:
        head = slide.system.call_s3("head_object", Bucket=bucket, Key=key)
    except Exception as error:
        raise SlideError(f"{shown(slide.url)}: {reason_of(slide.url, error)}") from None
    return bool(head.get("ServerSideEncryption", "AES256") != "AES256")
