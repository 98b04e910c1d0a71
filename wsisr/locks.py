"""Locks between processes, on every file system."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsisr.errors import OutputError
from wsisr.files import os_errors

if TYPE_CHECKING:
    from filelock import BaseFileLock

_POSIX = os.name == "posix"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What file systems answer that have no locks: Lustre, FUSE and NFS, as they are mounted."""


@contextmanager
def lock_file(path: Path, *, shown: Path | None = None) -> Iterator[None]:
    """Holds a lock against other processes; whoever comes second is refused at once.

    The lock is the operating system's own on the open file (flock, or LockFileEx on Windows), not
    the mere presence of the file: it ends with the process that holds it, however that ends, so a
    killed owner leaves an empty file and no stale lock. Only where the system has no such lock
    does the file's presence stand for it, with the owner's host and process number in it, by which
    the next one finds out that a dead owner is gone.

    Args:
        path: the lock file, used for nothing else; it is removed at the end.
        shown: the path that errors name instead of the lock file.

    Yields:
        Nothing, while the lock is held.

    Raises:
        OutputError: another one holds the lock, or the file cannot be made.
    """
    import filelock

    shown = shown or path
    with os_errors(shown):
        try:
            lock = take_lock(path)
        except filelock.Timeout as error:
            busy = f"{shown} is being written by another run; wait for it to end"
            raise OutputError(busy) from error
    try:
        yield
    finally:
        _release(lock, path)


def take_lock(path: Path, timeout_s: float = 0) -> BaseFileLock:
    """Takes the system's lock on a file, or where the file system has none, the one by presence.

    Args:
        path: the lock file.
        timeout_s: how long to wait for another's to end; negative is for ever.

    Returns:
        The lock, to be released by any thread.

    Raises:
        OSError: another one holds it (filelock's `Timeout`), or the file cannot be made.
    """
    import filelock

    was_there = path.exists()
    lock: BaseFileLock = filelock.FileLock(path, timeout=timeout_s, thread_local=False)
    try:
        with warnings.catch_warnings():
            # that there is another kind of lock is no news for the user
            warnings.simplefilter("ignore")
            lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if not was_there:
            # what this attempt has made would pass for another's lock
            path.unlink(missing_ok=True)
        lock = filelock.SoftFileLock(path, timeout=timeout_s, thread_local=False)
        lock.acquire()
    return lock


def _release(lock: BaseFileLock, path: Path) -> None:
    import filelock

    # a native lock's file is removed while it is held, for afterwards it may be another one's
    if _POSIX and not isinstance(lock, filelock.SoftFileLock):
        with suppress(OSError):
            path.unlink(missing_ok=True)
    lock.release()
    if not _POSIX:
        # Windows removes no open file; one that the next owner has opened stays
        with suppress(OSError):
            path.unlink(missing_ok=True)
