"""The folder of a run belongs to one command at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from wsisr.errors import UsageError

LOCK = ".lock"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Keeps other commands from writing into a folder; the file `.lock` in it may stay.

    Of the processes of one training the first one holds the lock. On a file system that knows no
    locks filelock goes by the file's being there; older versions refuse, and then there is no lock.

    Args:
        out: the folder, which is made where it is missing.

    Raises:
        UsageError: another process holds it.
        OSError: the folder cannot be made or written.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(
            f"{out}: another process works in it; wait for it to end or choose another --out"
        ) from error
    except NotImplementedError:  # older versions of filelock, on a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()
