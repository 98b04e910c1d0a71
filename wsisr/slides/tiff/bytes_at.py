"""Reads a file at positions, from several threads."""

from __future__ import annotations

import os
from pathlib import Path

from wsisr.errors import SlideError
from wsisr.files import read_at


class BytesAt:
    """Holds an open file that is read by position; threads do not disturb each other.

    Attributes:
        path: the file.
        size: its length in bytes when it was opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Reads exactly `count` bytes from `offset`.

        Args:
            offset: position of the first byte.
            count: how many bytes to read.

        Raises:
            SlideError: the file ends before, or the disk refuses.
        """
        if offset < 0 or count < 0 or offset + count > self.size:
            raise SlideError(
                f"{self.path} is cut short or damaged: it refers to bytes {offset} to "
                f"{offset + count}, and has {self.size}; copy or download it again"
            )
        try:
            data = read_at(self._file.fileno(), offset, count)
        except OSError as error:
            raise SlideError(
                f"{self.path} cannot be read ({error.strerror}); check the disk and try again"
            ) from error
        if len(data) != count:
            raise SlideError(f"{self.path} became shorter while it was read; copy it again")
        return data

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
