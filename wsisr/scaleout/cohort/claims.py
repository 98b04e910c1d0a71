"""Who computes a slide: claims, so that several commands on one folder never do one twice.

A claim is a file that is made exclusively and holds host, process, its start, and a heartbeat that
its owner renews. It is stale when its owner is known to be dead, or when its heartbeat has not
changed for a while by the observer's own steady clock; so clocks that differ or go backwards do not
matter. No lock of the file system is needed for that, only names.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from wsisr.closing import Closing
from wsisr.errors import OutputError
from wsisr.files import os_errors
from wsisr.locks import lock_file
from wsisr.parsing import as_object, parse_json

BEAT_S = 5.0
STALE_S = 120.0
"""How long a heartbeat of another machine may stand still."""


@dataclass(frozen=True)
class Owner:
    """A command that claims slides.

    Attributes:
        host: name of the machine and of its space of process numbers, for containers share names.
        pid: number of the process.
        started: when the process started, see `start_of`; with `pid` it names the process.
        command: unlike that of any other command.
    """

    host: str
    pid: int
    started: float
    command: str

    @classmethod
    def of_this_process(cls) -> Owner:
        """Describes this process."""
        return cls(_host(), os.getpid(), start_of(os.getpid()), uuid.uuid4().hex)

    @property
    def is_dead(self) -> bool:
        """Tells whether this is known to have ended, which only its own machine can tell."""
        if self.host != _host():
            return False
        try:
            return abs(start_of(self.pid) - self.started) > 1
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def start_of(pid: int) -> float:
    """Gives when a process of this machine started, for comparison alone.

    On Linux these are ticks since the machine started; elsewhere it is a time of day, which a clock
    that is set would change.

    Raises:
        NoSuchProcess: it has ended.
        AccessDenied: that cannot be told.
    """
    with suppress(OSError, IndexError, ValueError):
        # the name of the program, in brackets, may hold anything
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return float(fields[19])
    return float(psutil.Process(pid).create_time())


def _host() -> str:
    name = socket.gethostname()
    with suppress(OSError):
        name += f" {Path('/proc/self/ns/pid').stat().st_ino}"
    return name


class Claims(Closing):
    """The claims of this command in a folder; a thread keeps them alive.

    Args:
        folder: where they lie; it exists.
        stale_s: how long the heartbeat of another machine may stand still.
    """

    def __init__(self, folder: Path, stale_s: float = STALE_S) -> None:
        self.owner = Owner.of_this_process()
        self._folder, self._stale_s = folder, stale_s
        self._held: set[str] = set()
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._beats = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="wsisr-claims", daemon=True)
        self._beating.start()

    def take(self, name: str) -> bool:
        """Claims a slide; tells whether it is this command's now.

        Args:
            name: id of the slide.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._path(name)
        # held before it is there: an interruption between the two would leave it behind
        self._held.add(name)
        if self._create(path) or self._take_over(name, path):
            return True
        self._held.discard(name)
        return False

    def _take_over(self, name: str, path: Path) -> bool:
        """Takes a claim over whose owner is dead or silent."""
        if not self._is_stale(name):
            return False
        try:
            # only one of those who find it stale may take it away
            with lock_file(_lock_of(path)):
                if self._is_stale(name):
                    with os_errors(path):
                        path.unlink(missing_ok=True)
                    return self._create(path)
        except OutputError:
            if not self._folder.is_dir():
                raise
        return False

    def clear(self, name: str) -> None:
        """Removes the claim on a finished slide, if its owner died before it could.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self._path(name)
        if path.exists() and self.take(name):
            self.release(name)
        lock = _lock_of(path)
        if lock.exists():
            with suppress(OutputError), lock_file(lock):
                pass  # which removes it

    def release(self, name: str) -> None:
        """Gives a slide back."""
        with self._lock:
            self._held.discard(name)
            if self._is_own(self._path(name)):
                with suppress(OSError):
                    self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Gives all slides back."""
        self._ended.set()
        self._beating.join()
        for name in tuple(self._held):
            self.release(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.claim"

    def _create(self, path: Path) -> bool:
        with os_errors(path):
            try:
                with path.open("xb") as file:
                    try:
                        file.write(self._content())
                    except BaseException:
                        path.unlink(missing_ok=True)
                        raise
            except FileExistsError:
                return False
        return True

    def _content(self) -> bytes:
        return json.dumps({**asdict(self.owner), "beat": self._beats}).encode()

    def _is_own(self, path: Path) -> bool:
        found = _read(path)
        return found is not None and _owner_of(found) == self.owner

    def _is_stale(self, name: str) -> bool:
        content = _read(self._path(name))
        if content is None:
            self._seen.pop(name, None)
            return False
        owner = _owner_of(content)
        if owner is not None and owner.is_dead:
            return True
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if seen != content:
            self._seen[name] = content, now
        return seen == content and now - since > self._stale_s

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            self._beats += 1
            with self._lock:
                for name in tuple(self._held):
                    path = self._path(name)
                    # a claim that was taken over is another's now
                    if self._is_own(path):
                        with suppress(OSError), path.open("r+b") as file:
                            file.write(self._content())


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _owner_of(content: bytes) -> Owner | None:
    """Reads a claim; one that is being written has no owner yet."""
    try:
        fields: dict[str, Any] = as_object(parse_json(content))
        host, pid, started = str(fields["host"]), int(fields["pid"]), float(fields["started"])
        return Owner(host, pid, started, str(fields["command"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
