"""Files beside the output: append, sync, rename, and the one line an error becomes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsisr.errors import OutputError


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into an OutputError that says what to do."""
    try:
        yield
    except OSError as error:
        raise OutputError(_explain(path, error)) from error


def _explain(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}: the disk is full; make room on {path.parent} and run again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path}: cannot be written ({reason}); choose a folder you may write to"
    if error.errno == errno.ENOENT and not path.parent.is_dir():
        return f"{path}: the folder {path.parent} does not exist; create it first"
    return f"{path}: cannot be written ({reason})"


def write_atomic(path: Path, data: bytes | str) -> None:
    """Writes a file that has its name only once it is complete and on the disk.

    The data go to a file of another name in the same folder, which is flushed and then renamed.
    Whatever happens, `path` is the old file or the new one.

    Args:
        path: the file to write or to replace.
        data: the content; text is stored as UTF-8 with its line ends as they are.

    Raises:
        OSError: the file cannot be written.
    """
    # the process's number keeps two processes that write the same file apart
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


class AppendFile:
    """A file that grows at its end. Positions are kept here, so a failed write leaves no gap.

    shown: the path that errors name. size: the length of an existing file to keep; what lies
    behind is cut off. 0 starts an empty file. None keeps all of an existing file.
    """

    def __init__(self, path: Path, *, shown: Path, size: int | None = 0) -> None:
        self.path = path
        self._shown = shown
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        with os_errors(shown):
            self._fd = os.open(path, flags, 0o666)
            if size is None:
                size = os.fstat(self._fd).st_size
            os.ftruncate(self._fd, size)
        self.end = size

    def append(self, data: bytes, *, align: int = 1) -> int:
        """Write `data` at the end, on a multiple of `align`; its offset."""
        offset = -(-self.end // align) * align
        self.overwrite(offset, data)
        self.end = offset + len(data)
        return offset

    def overwrite(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`."""
        # no context manager here: this runs several times a tile
        try:
            written = os.pwrite(self._fd, data, offset)
            if written < len(data):
                self.overwrite(offset + written, memoryview(data)[written:])
        except OSError as error:
            raise OutputError(_explain(self._shown, error)) from error

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, fewer where the file ends."""
        with os_errors(self._shown):
            return os.pread(self._fd, length, offset)

    def cut(self, size: int) -> None:
        """Drop what lies behind the first `size` bytes."""
        with os_errors(self._shown):
            os.ftruncate(self._fd, size)
        self.end = size

    def sync(self) -> None:
        """Have the disk hold everything written so far."""
        with os_errors(self._shown):
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def commit_file(partial: Path, path: Path) -> None:
    """Rename the finished file to its own name, durably."""
    with os_errors(path):
        partial.replace(path)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the folder's entries."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file or a folder with all it holds, if it is there."""
    with os_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder in the order of their names."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(2**20):
                digest.update(block)
    return digest.hexdigest()
