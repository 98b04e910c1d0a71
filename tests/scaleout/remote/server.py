"""An HTTP server of a folder: ranges, and the faults of servers and networks."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

PIECE = 1 << 14


class FileServer:
    """Serves the files of a folder.

    Attributes:
        drops: how many answers are cut off in the middle.
        status: what every request is answered; None serves.
        ranges: whether ranges are served, or all of the file.
        pause_s: between pieces of 16 kB.
        sent: bytes of files that were sent.
        gets: how many files or ranges were asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.drops, self.sent, self.gets = 0, 0, 0
        self.status: int | None = None
        self.ranges, self.pause_s = True, 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def put(self, name: str, data: bytes) -> str:
        (self.folder / name).write_bytes(data)
        return self.url(name)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(files: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            files.gets += 1
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = files.folder / unquote(urlsplit(self.path).path).lstrip("/")
            status = files.status or (200 if path.is_file() else 404)
            if status != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            data = path.read_bytes()
            tag, asked = hashlib.sha256(data).hexdigest()[:16], self.headers.get("Range")
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "") if files.ranges else None
            self.send_response(206 if found else 200)
            if found:
                first, last = int(found[1]), int(found[2])
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
                data = data[first : last + 1]
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{tag}"')
            self.end_headers()
            if with_body:
                self._send(data)

        def _send(self, data: bytes) -> None:
            if files.drops:
                files.drops -= 1
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                self.wfile.write(piece)
                files.sent += len(piece)
                time.sleep(files.pause_s)

    return Handler
