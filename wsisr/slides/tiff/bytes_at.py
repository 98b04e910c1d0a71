"""Reading a file at positions, from several threads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from wsisr.errors import SlideError


class BytesAt:
    """An open file that is read by position; threads do not disturb each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; `SlideError` where the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise SlideError(
                f"{self.path} is cut short or damaged: it refers to bytes {offset} to "
                f"{offset + count}, and has {self.size}; copy or download it again"
            )
        try:
            data = self._read(offset, count)
        except OSError as error:
            raise SlideError(
                f"{self.path} cannot be read ({error.strerror}); check the disk and try again"
            ) from error
        if len(data) != count:
            raise SlideError(f"{self.path} became shorter while it was read; copy it again")
        return data

    def _read(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            data = os.pread(self._file.fileno(), count, offset)
            while 0 < len(data) < count:
                more = os.pread(self._file.fileno(), count - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data
        with self._lock:
            self._file.seek(offset)
            parts = []
            while count > 0 and (part := self._file.read(count)):
                parts.append(part)
                count -= len(part)
            return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
