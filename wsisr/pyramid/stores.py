"""Where the files of an OME-Zarr go while it is made: a folder of this machine, or object storage.

A folder has another name until it is complete. Objects cannot be renamed: they are put under their
final names, and `.zattrs` of the root, which makes an image of them, is put last.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from wsisr.errors import OutputError
from wsisr.files import (
    commit_folder,
    os_errors,
    remove,
    sync_file,
    sync_folder,
    write_part,
)
from wsisr.pyramid.metadata import CREATOR
from wsisr.pyramid.ngff import METADATA_NAMES, OME_XML
from wsisr.urls import file_system, reason_of, retried, shown

WriteMetadata = Callable[[Path], Iterable[Path]]
"""Writes the metadata into a folder and names the files."""
MARK = ".zattrs"
"""The object that makes an image of the others."""
PUTS_AT_ONCE = 8
PUTS_WAITING = 2 * PUTS_AT_ONCE


class ChunkStore(Protocol):
    """Holds the chunks of an OME-Zarr under construction by their names, with slashes."""

    @property
    def appends(self) -> bool:
        """Tells whether chunks can be appended to a file that is there."""
        ...

    def begin(self, *, resume: bool) -> None:
        """Makes ready for chunks; without `resume` nothing is there yet."""
        ...

    def write(self, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Stores bytes of a file; with `last` the file ends behind them."""
        ...

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads bytes of a file, fewer where it ends early.

        Raises:
            OutputError: it cannot be read.
        """
        ...

    def keep(self, ends: dict[str, int]) -> None:
        """Removes all files but some, and cuts those to their ends where chunks are appended."""
        ...

    def sync(self) -> None:
        """Waits until everything written so far outlives the process and the machine."""
        ...

    def finish(self, write_metadata: WriteMetadata) -> None:
        """Adds the metadata and makes the output complete."""
        ...

    def close(self) -> None:
        """Closes what is open and keeps what was written."""
        ...

    def discard(self) -> None:
        """Removes what was written."""
        ...


class FolderStore:
    """A folder of this machine (a `ChunkStore`).

    Args:
        path: its name when it is complete.
        partial: its name until then.
    """

    appends = True

    def __init__(self, path: Path, partial: Path) -> None:
        self._path, self._partial = path, partial
        self._touched: set[Path] = set()
        self._touched_lock = Lock()
        self._folders: set[Path] = set()

    def begin(self, *, resume: bool) -> None:
        """Makes the folder."""
        with os_errors(self._path):
            self._partial.mkdir(exist_ok=resume)

    def write(self, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Writes into a file, made if it is missing."""
        path = self._partial / name
        folder = path.parent
        with os_errors(self._path):
            if folder not in self._folders:
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
            write_part(path, offset, data, last=last)
        with self._touched_lock:
            self._touched.add(path)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads from a file."""
        with os_errors(self._path), (self._partial / name).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def keep(self, ends: dict[str, int]) -> None:
        """Removes all other files, and cuts these to their ends; the next `sync` has them all."""
        kept = {self._partial / name: end for name, end in ends.items()}
        for path in sorted(self._partial.rglob("*")):
            if not path.is_dir() and path not in kept:
                remove(path)
        for path, end in kept.items():
            with os_errors(self._path):
                if path.stat().st_size != end:
                    os.truncate(path, end)
        # the run before may have been killed before it had the disk hold them
        with self._touched_lock:
            self._touched.update(kept)

    def sync(self) -> None:
        """Has the disk hold the files written since the last call."""
        with self._touched_lock:
            touched, self._touched = self._touched, set()
        folders: set[Path] = set()
        for path in touched:
            with os_errors(self._path):
                sync_file(path)
            folders.update(each for each in path.parents if each.is_relative_to(self._partial))
        # and the names of new files, from the innermost folder out
        for folder in sorted(folders, key=lambda each: -len(each.parts)):
            with os_errors(self._path):
                sync_folder(folder)

    def finish(self, write_metadata: WriteMetadata) -> None:
        """Renames the folder; what stood under its name goes."""
        with os_errors(self._path):
            self._touched.update(write_metadata(self._partial))
        self.sync()
        commit_folder(self._partial, self._path)

    def close(self) -> None:
        """Has nothing to close: no file stays open between calls."""

    def discard(self) -> None:
        """Removes the folder."""
        remove(self._partial)


class ObjectStore:
    """Object storage behind a URL (a `ChunkStore`).

    Objects are put by several threads, for each put waits for the network; at most `PUTS_WAITING`
    are in memory. What a put could not do is raised by the next call.

    Args:
        url: where the OME-Zarr goes.

    Raises:
        UsageError: no driver leads there.
    """

    appends = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._system, root = file_system(url)
        self._root = root.rstrip("/")
        self._putters = ThreadPoolExecutor(PUTS_AT_ONCE, thread_name_prefix="wsisr-put")
        self._waiting: list[Future[None]] = []
        self._lock = Lock()

    def is_finished(self) -> bool:
        """Tells whether a complete output is there."""
        return bool(self._do(lambda: self._system.exists(self._place(MARK))))

    def is_empty(self) -> bool:
        """Tells whether nothing is there."""
        return next(self._names(), None) is None

    def is_own(self) -> bool:
        """Tells whether all that is there can be of an OME-Zarr that was written here."""
        names = list(self._names())
        metadata = OME_XML.as_posix()
        if metadata in names:
            text: bytes = self._do(lambda: self._system.cat_file(self._place(metadata)))
            if f'Creator="{CREATOR}"'.encode() not in text:
                return False
        elif MARK in names:
            return False
        return all(_is_part(name) for name in names)

    def begin(self, *, resume: bool) -> None:
        """Removes what is there unless it is gone on from; first what makes an image of it."""
        if not resume:
            self.clear()

    def clear(self) -> None:
        """Removes all objects."""
        if self.is_finished():
            self._remove([MARK])
        self._remove(list(self._names()))

    def write(self, name: str, offset: int, data: bytes, *, last: bool) -> None:
        """Puts an object, in the background."""
        if offset or not last:
            raise NotImplementedError("an object cannot be appended to")
        with self._lock:
            self._settle(room_for=1)
            self._waiting.append(self._putters.submit(self._put, name, data))

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads from an object."""
        place = self._place(name)
        # a byte more tells an object that is too long
        end = offset + length + 1
        found: bytes = self._do(lambda: self._system.cat_file(place, start=offset, end=end))
        return found

    def keep(self, ends: dict[str, int]) -> None:
        """Removes all other objects."""
        self._remove([name for name in self._names() if name not in ends])

    def sync(self) -> None:
        """Waits for all puts; what is acknowledged is durable."""
        with self._lock:
            self._settle(room_for=PUTS_WAITING)

    def finish(self, write_metadata: WriteMetadata) -> None:
        """Puts the metadata, the mark of a complete output last."""
        self.sync()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with os_errors(folder):
                files = {str(p.relative_to(folder).as_posix()): p for p in write_metadata(folder)}
                mark = files.pop(MARK).read_bytes()
                for name, path in files.items():
                    self.write(name, 0, path.read_bytes(), last=True)
        self.sync()
        self._put(MARK, mark)
        self.close()

    def close(self) -> None:
        """Waits for the puts under way, whether they succeed or not; a resume looks at each."""
        self._putters.shutdown(wait=True)

    def discard(self) -> None:
        """Removes all objects."""
        self.close()
        self.clear()

    def _settle(self, room_for: int) -> None:
        """Waits until so many more puts may wait; raises what failed."""
        while len(self._waiting) > PUTS_WAITING - room_for:
            self._waiting.pop(0).result()

    def _put(self, name: str, data: bytes) -> None:
        self._do(lambda: self._system.pipe_file(self._place(name), data))

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _names(self) -> Iterator[str]:
        for found in self._do(lambda: self._system.find(self._root)):
            yield str(found).removeprefix(self._root).lstrip("/")

    def _remove(self, names: list[str]) -> None:
        if names:
            self._do(lambda: self._system.rm([self._place(name) for name in names]))

    def _do(self, action: Callable[[], Any]) -> Any:
        """Lets the driver act, again after an error that may pass.

        Raises:
            OutputError: it fails for good; the message quotes nothing of the driver's.
        """
        try:
            return retried(action)
        except Exception as error:
            raise OutputError(f"{shown(self._url)}: {reason_of(self._url, error)}") from None


def _is_part(name: str) -> bool:
    """Tells whether an object bears a name that those of an OME-Zarr have."""
    first, _, _ = name.partition("/")
    return first.isdecimal() or first == OME_XML.parent.name or name in METADATA_NAMES
