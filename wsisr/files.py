"""Writes files so that they survive crashes: atomic writes, appending, flushing, hashes.

Nothing here needs Linux. Where a system has no positioned reads and writes (Windows), a seek and
a read or write under one lock take their place; where it cannot flush a folder, that is left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from wsisr.errors import OutputError, SlideError

_SEEKING = Lock()
"""Held from a seek to the read or write that rests on it."""
_POSIX = os.name == "posix"
_BINARY = getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""A link in the place of a file of ours was put there by another, and may lead anywhere."""
_HASH_BLOCK = 1 << 20


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turns an OSError about `path` into an OutputError that says what to do.

    Args:
        path: the file that the message names.

    Raises:
        OutputError: the block raised an OSError.
    """
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
    partial = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def commit_file(partial: Path, path: Path) -> None:
    """Renames a finished file, closed and flushed, to its own name, durably.

    Args:
        partial: the finished file.
        path: its name from now on; a file of that name is replaced.

    Raises:
        OutputError: the file cannot be renamed.
    """
    with os_errors(path):
        partial.replace(path)
        sync_folder(path.parent)


def commit_folder(partial: Path, path: Path) -> None:
    """Renames a finished folder, its files flushed, to its own name, durably.

    A folder of that name gets `<NAME>.replaced` until then, and goes in the end; where the rename
    fails it gets its name back.

    Args:
        partial: the finished folder.
        path: its name from now on.

    Raises:
        OutputError: a folder cannot be renamed or removed.
    """
    replaced = path.with_name(path.name + ".replaced")
    with os_errors(path):
        if os.path.lexists(path):
            remove(replaced)
            path.rename(replaced)
        try:
            partial.rename(path)
        except BaseException:
            if os.path.lexists(replaced) and not os.path.lexists(path):
                replaced.rename(path)
            raise
        sync_folder(path.parent)
    remove(replaced)


def sync_folder(folder: Path) -> None:
    """Has the disk hold the names in a folder, where the system can flush a folder.

    Args:
        folder: the folder that holds the new or renamed files.

    Raises:
        OSError: the disk refused.
    """
    if not _POSIX:
        # Windows opens no folders; there a rename is as durable as the file system makes it
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    """Has the disk hold everything that was written to a file.

    Args:
        path: the file, which may be open elsewhere.

    Raises:
        OSError: the disk refused.
    """
    fd = os.open(path, os.O_RDWR | _BINARY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all it holds, if it is there.

    Args:
        path: what to remove; of a symbolic link only the link goes.

    Raises:
        OutputError: it cannot be removed.
    """
    with os_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    """Computes the SHA-256 of a file, or of all files of a folder in the order of their names.

    Args:
        path: the file or the folder.

    Returns:
        The digest as hexadecimal text.

    Raises:
        SlideError: a link leaves the folder.
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    files, root = [path], path.resolve()
    if path.is_dir():
        files = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda file: file.parts)
    for file in files:
        if file is not path and file.is_symlink() and not file.resolve().is_relative_to(root):
            raise SlideError(f"{path}: the link {file.name} leads outside of it; remove the link")
        with file.open("rb") as handle:
            while block := handle.read(_HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def write_at(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Writes all of `data` at a position of an open file; threads do not disturb each other.

    Args:
        fd: descriptor of the file, open for writing in binary mode.
        offset: position of the first byte.
        data: the bytes to write.

    Raises:
        OSError: the disk refused; part of the data may stand there.
    """
    view = memoryview(data)
    while view:
        written = _write_some(fd, offset, view)
        view, offset = view[written:], offset + written


def _write_some(fd: int, offset: int, data: memoryview) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(fd, data, offset)
    with _SEEKING:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


def read_at(fd: int, offset: int, length: int) -> bytes:
    """Reads from a position of an open file; threads do not disturb each other.

    Args:
        fd: descriptor of the file, open for reading in binary mode.
        offset: position of the first byte.
        length: how many bytes to read.

    Returns:
        `length` bytes, or fewer where the file ends.

    Raises:
        OSError: the disk refused.
    """
    parts = []
    while length > 0 and (part := _read_some(fd, offset, length)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_some(fd: int, offset: int, length: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(fd, length, offset)
    with _SEEKING:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


def write_part(path: Path, offset: int, data: bytes, *, last: bool) -> None:
    """Opens a file, made if it is missing, and writes `data` at a position.

    Args:
        path: the file, in a folder that exists.
        offset: position of the first byte.
        data: the bytes to write.
        last: whether the file ends behind them; what stood there is cut off.

    Raises:
        OSError: the disk refused.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY | _NO_LINK, 0o666)
    try:
        write_at(fd, offset, data)
        if last:
            os.ftruncate(fd, offset + len(data))
    finally:
        os.close(fd)


class AppendFile:
    """A file that grows at its end. Positions are kept here, so a failed write leaves no gap.

    Every method ends in an OutputError where the disk refuses.

    Attributes:
        path: the file.
        end: length of the file in bytes, as far as it counts.
    """

    def __init__(self, path: Path, *, shown: Path, size: int | None = 0) -> None:
        """Opens the file, made if it is missing.

        Args:
            path: the file.
            shown: the path that errors name.
            size: bytes of an existing file to keep; what lies behind is cut off. 0 starts an
                empty file, None keeps all of an existing one.

        Raises:
            OutputError: the file cannot be opened or cut.
        """
        self.path = path
        self._shown = shown
        with os_errors(shown):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY | _NO_LINK, 0o666)
            try:
                self.end = os.fstat(self._fd).st_size if size is None else size
                if size is not None:
                    os.ftruncate(self._fd, size)
            except BaseException:
                self.close()
                raise

    def append(self, data: bytes, *, align: int = 1) -> int:
        """Writes `data` at the end.

        Args:
            data: the bytes to write.
            align: the position is a multiple of this many bytes.

        Returns:
            The position of the first byte.
        """
        offset = -(-self.end // align) * align
        self.overwrite(offset, data)
        self.end = offset + len(data)
        return offset

    def overwrite(self, offset: int, data: bytes | memoryview) -> None:
        """Writes `data` at `offset` and leaves the end where it is.

        Args:
            offset: position of the first byte.
            data: the bytes to write.
        """
        # no context manager here: this runs several times a tile
        try:
            write_at(self._fd, offset, data)
        except OSError as error:
            raise OutputError(_explain(self._shown, error)) from error

    def read(self, offset: int, length: int) -> bytes:
        """Reads up to `length` bytes from `offset`, fewer where the file ends.

        Args:
            offset: position of the first byte.
            length: how many bytes to read.

        Returns:
            The bytes.

        Raises:
            OutputError: the disk refused.
        """
        with os_errors(self._shown):
            return read_at(self._fd, offset, length)

    def cut(self, size: int) -> None:
        """Drops what lies behind the first `size` bytes."""
        with os_errors(self._shown):
            os.ftruncate(self._fd, size)
        self.end = size

    def sync(self) -> None:
        """Has the disk hold everything written so far; does nothing once it is closed."""
        if self._fd < 0:
            return  # it was synced when its output was finished
        flush = getattr(os, "fdatasync", os.fsync)
        with os_errors(self._shown):
            flush(self._fd)

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
