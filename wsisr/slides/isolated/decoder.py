"""The process that decodes: started when first wanted, asked over sockets, replaced when it died.

Requests and answers are JSON, and pixels are raw bytes of a length that is known before: whatever
a file makes of the child, nothing of what it sends is run here.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.connection import Client, Connection
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from wsisr.parsing import parse_json

VARIABLE = "WSISR_ISOLATE"
"""Environment variable that has slides decoded in a child; processes of a run inherit it."""
LARGEST_ANSWER = 256 << 20
"""Bytes of JSON that a child may answer, an ICC profile or metadata among them."""
START = "from wsisr.slides.isolated.child import main; main()"


class DecoderDiedError(Exception):
    """The process that decodes has ended; its text says how."""


class Decoder:
    """A running child; several threads may ask it at once, each over a connection of its own."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": path}
        environment.pop(VARIABLE, None)
        # a session of its own: Ctrl-C is for the run, which then ends the child
        self._process = subprocess.Popen(
            [sys.executable, "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._lock, self._idle = Lock(), list[Connection]()
        self.pid = os.getpid()
        with suppress(OSError):
            self._process.stdin.write(self._key.hex().encode() + b"\n")
            self._process.stdin.flush()
        try:
            self._address = parse_json(self._process.stdout.readline())
        except ValueError as error:
            raise DecoderDiedError(self._end()) from error
        atexit.register(self.stop)

    @property
    def lives(self) -> bool:
        """Tells whether it can be asked, and by this process."""
        return self.pid == os.getpid() and self._process.poll() is None

    def ask(self, request: dict[str, Any], into: NDArray[Any] | None = None) -> dict[str, Any]:
        """Sends a request and waits for the answer.

        Args:
            request: plain JSON values.
            into: takes the pixels that follow the answer, C-contiguous.

        Returns:
            The answer.

        Raises:
            DecoderDiedError: the child ended, or answered what is no answer.
        """
        connection = self._connection()
        try:
            connection.send_bytes(json.dumps(request).encode())
            answer = parse_json(connection.recv_bytes(LARGEST_ANSWER))
            if into is not None and "error" not in answer:
                receive(connection, into)
        except (EOFError, OSError, ValueError) as error:
            connection.close()
            raise DecoderDiedError(self._end()) from error
        with self._lock:
            self._idle.append(connection)
        if not isinstance(answer, dict):
            raise DecoderDiedError(self._end())
        return answer

    def stop(self) -> None:
        """Ends the child."""
        if self.pid != os.getpid():
            return
        for connection in self._idle:
            connection.close()
        self._end()

    def _connection(self) -> Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return Client(self._address, authkey=self._key)
        except (EOFError, OSError) as error:
            raise DecoderDiedError(self._end()) from error

    def _end(self) -> str:
        """Makes sure that the child has ended, and says how it did."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, AttributeError):
                stream.close()  # type: ignore[union-attr]
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code >= 0:
            return f"ended with {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"


def send(connection: Connection, pixels: NDArray[Any]) -> None:
    """Sends pixels, C-contiguous; `receive` knows how many there are."""
    view = pixels.data.cast("B")
    if os.name != "posix":
        connection.send_bytes(view)
        return
    # past the connection's own messages, which are put together in memory once more
    while view:
        view = view[os.write(connection.fileno(), view) :]


def receive(connection: Connection, into: NDArray[Any]) -> None:
    """Receives the pixels of `send`.

    Raises:
        EOFError: the other side has ended.
        ValueError: there were fewer.
    """
    view = into.data.cast("B")
    if os.name != "posix":
        received = connection.recv_bytes_into(view)
        if received != into.nbytes:
            raise ValueError(f"{received} bytes of pixels in place of {into.nbytes}")
        return
    while view:
        count = os.readv(connection.fileno(), [view])
        if not count:
            raise EOFError
        view = view[count:]


_lock = Lock()
_current: Decoder | None = None


def decoder() -> Decoder:
    """Gives the child of this process, started where none lives."""
    global _current
    with _lock:
        if _current is None or not _current.lives:
            _current = Decoder()
        return _current
