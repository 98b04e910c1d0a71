"""What runs in the process that decodes: it opens slides and reads regions as it is asked.

It listens for connections of its parent alone, who gives the key on stdin, and ends when stdin
does, which is when the parent has ended, however that came.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import logging
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Lock, Thread, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsisr.errors import SlideError, UsageError, WsisrError
from wsisr.parsing import parse_json
from wsisr.slides.base import Slide, SlideInfo
from wsisr.slides.isolated.decoder import send

Pixels = NDArray[np.uint8]
Damaged = set[tuple[str, int, int]]

_logged = local()


class Keep(logging.Handler):
    """Keeps what is logged while a request is served; the parent logs it again."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record of this thread."""
        kept: list[list[Any]] = getattr(_logged, "records", [])
        kept.append([record.name, record.levelno, record.getMessage()])


class Server:
    """The open slides, by number."""

    def __init__(self) -> None:
        self._slides: dict[int, tuple[Slide, Damaged | None]] = {}
        self._numbers, self._lock = itertools.count(), Lock()

    def open(self, path: str, cache_bytes: int, blank: bool) -> tuple[dict[str, Any], None]:
        """Opens a slide; with `blank` damaged tiles are background, and are told of."""
        from wsisr.slides.opening import open_slide

        damaged: Damaged | None = set() if blank else None
        slide = open_slide(path, cache_bytes=cache_bytes, unreadable=damaged)
        with self._lock:
            number = next(self._numbers)
            self._slides[number] = slide, damaged
        return {
            "number": number,
            "path": str(slide.path),
            "levels": [[level.width, level.height] for level in slide.levels],
            "associated": list(slide.associated),
            "info": {f.name: plain(getattr(slide, f.name)) for f in dataclasses.fields(SlideInfo)},
        }, None

    def read(self, number: int, region: list[int]) -> tuple[dict[str, Any], Pixels]:
        """Reads level, x, y, width and height."""
        slide, damaged = self._slides[number]
        pixels = slide.read(*region)
        return {"damaged": sorted(damaged or ())}, np.ascontiguousarray(pixels)

    def associated(self, number: int, name: str) -> tuple[dict[str, Any], Pixels]:
        """Decodes an associated image."""
        return {}, np.ascontiguousarray(self._slides[number][0].associated[name])

    def shape(self, number: int, name: str) -> tuple[dict[str, Any], None]:
        """Tells the size of an associated image."""
        return {"shape": self._slides[number][0].associated[name].shape}, None

    def close(self, number: int) -> tuple[dict[str, Any], None]:
        """Closes a slide."""
        with self._lock:
            slide, _ = self._slides.pop(number)
        slide.close()
        return {}, None

    def serve(self, connection: Connection) -> None:
        """Answers requests until the connection ends."""
        calls: Mapping[str, Callable[..., tuple[dict[str, Any], Pixels | None]]] = {
            "open": self.open,
            "read": self.read,
            "shape": self.shape,
            "associated": self.associated,
            "close": self.close,
        }
        while True:
            try:
                request = parse_json(connection.recv_bytes())
            except (EOFError, OSError):
                return
            _logged.records = []
            pixels = None
            try:
                answer, pixels = calls[request.pop("call")](**request)
            except WsisrError as error:
                kind = UsageError if isinstance(error, UsageError) else SlideError
                answer = {"error": kind.__name__, "message": error.spelled("<{}>".format)}
            except MemoryError:
                answer = {"error": "MemoryError", "message": "the decoder ran out of memory"}
            except Exception as error:
                answer = {"error": "SlideError", "message": f"{type(error).__name__}: {error}"}
            answer["logged"] = _logged.records
            connection.send_bytes(json.dumps(answer).encode())
            if pixels is not None:
                send(connection, pixels)


def plain(value: object) -> Any:
    """Makes JSON of a field of `SlideInfo`."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"map": {str(key): str(text) for key, text in value.items()}}
    if isinstance(value, Path):
        return str(value)
    return value


def main() -> None:
    """Serves the parent until it ends."""
    key = bytes.fromhex(sys.stdin.readline())
    server = Server()
    logging.getLogger().addHandler(Keep())
    # a name that is no file, where there are such
    name = f"\0wsisr-{secrets.token_hex(16)}" if sys.platform == "linux" else None
    with Listener(name, authkey=key) as listener:
        sys.stdout.write(json.dumps(name or listener.address) + "\n")
        sys.stdout.flush()
        # libraries that print would write into the parent's pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        Thread(target=_end_with_the_parent, args=(listener,), daemon=True).start()
        while True:
            Thread(target=server.serve, args=(listener.accept(),), daemon=True).start()


def _end_with_the_parent(listener: Listener) -> None:
    sys.stdin.read()
    if isinstance(listener.address, str) and not listener.address.startswith("\0"):
        with suppress(OSError):
            listener.close()
            Path(listener.address).parent.rmdir()
    os._exit(0)
