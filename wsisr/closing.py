"""The one way to let go of what threads, processes and files hold: leaving a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A context manager that is closed when it is left, for whatever reason."""

    @abstractmethod
    def close(self) -> None:
        """Lets go of everything; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
