"""Fails or kills at one of the calls by which a process changes the file system.

What is below a folder counts: the standard library's functions of `os`, and files opened for
writing, through which all of wsisr and its libraries written in Python go.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = ("full", "error", "short", "kill before", "kill after", "interrupt")
"""Of a full disk all later writes fail, too; a broken one fails once."""
OF_FILES = ("write", "pwrite", "ftruncate", "fsync", "fdatasync")
OF_PATHS = ("open", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate")
WRITES = {"write", "pwrite"}
GROWS = {*WRITES, "open", "mkdir", "ftruncate", "truncate"}
"""What a full disk refuses."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which call, counted from 0.

    Attributes:
        kind: one of `KINDS`.
        number: of the call.
    """

    kind: str
    number: int


class Injector:
    """Stands before the calls of this process.

    Args:
        folder: below which calls count.
        log: gets a line with the name of each call.
        fault: what goes wrong; None lets all be and counts.
    """

    def __init__(self, folder: Path, log: Path, fault: Fault | None) -> None:
        self._folder, self._fault = f"{folder.resolve()}{os.sep}", fault
        self._lock = threading.Lock()
        self._count, self._is_full = 0, False
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._write = os.write

    def install(self) -> None:
        """Replaces the functions."""
        for name in OF_FILES + OF_PATHS:
            setattr(os, name, self._before(name, getattr(os, name)))
        opened = io.open
        watched = self._before("open for writing", opened)

        def open_(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            call = watched if set(mode) & set("wxa+") else opened
            return call(file, mode, *args, **kwargs)

        builtins.open = io.open = open_  # type: ignore[assignment]

    def _before(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if not self._concerns(name, args, kwargs):
                return call(*args, **kwargs)
            with self._lock:
                number, self._count = self._count, self._count + 1
                self._write(self._log, f"{name}\n".encode())
                is_hit = self._fault is not None and self._fault.number == number
            if not is_hit:
                if self._is_full and name in GROWS:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return call(*args, **kwargs)
            return self._strike(name, call, args, kwargs)

        return watched

    def _concerns(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name == "open" and not args[1] & os.O_CREAT:
            return False
        place = args[0]
        if isinstance(place, int):
            if place < 3:
                return False
            place = Path(f"/proc/self/fd/{place}").readlink()
        place = os.fsdecode(place)
        if kwargs.get("dir_fd") is not None:
            place = Path(f"/proc/self/fd/{kwargs['dir_fd']}").readlink() / place
        return f"{os.path.abspath(place)}{os.sep}".startswith(self._folder)  # noqa: PTH100

    def _strike(
        self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        assert self._fault is not None
        kind = self._fault.kind
        if kind == "kill before":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in ("full", "error"):
            self._is_full = kind == "full"
            if name in WRITES:
                self._half(call, args)
            number = errno.ENOSPC if kind == "full" else errno.EIO
            raise OSError(number, os.strerror(number))
        if kind == "short" and name in WRITES:
            return self._half(call, args)
        result = call(*args, **kwargs)
        if kind == "kill after":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        return result

    def _half(self, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Writes the first half of the bytes."""
        fd, data, *rest = args
        return call(fd, data[: max(1, len(data) // 2)], *rest)
