"""Where published weights come from, and how to get them by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Wheel:
    """Files that stand in a wheel of the Python package index.

    Attributes:
        requirement: the wheel, as pip names it.
        members: {file name: path inside the wheel}.
    """

    requirement: str
    members: Mapping[str, str]

    def remedy(self, folder: Path) -> str:
        """Tells how to get the files into a folder by hand."""
        return (
            f"`pip download --no-deps {self.requirement}` and unpack "
            f"{', '.join(self.members.values())} into {folder}"
        )


@dataclass(frozen=True)
class Web:
    """One file behind an address.

    Attributes:
        file: name that the file gets.
        url: its address.
    """

    file: str
    url: str

    def remedy(self, folder: Path) -> str:
        """Tells how to get the file into a folder by hand."""
        return f"download {self.url} and put it at {folder / self.file}"


@dataclass(frozen=True)
class Hub:
    """One file of a Hugging Face repository; a gated one needs the user's own login.

    Attributes:
        file: name that the file gets.
        repository: the repository, owner/name.
        path: the file's path in the repository.
        gated: whether its owner grants access to each user.
    """

    file: str
    repository: str
    path: str
    gated: bool = False

    def remedy(self, folder: Path) -> str:
        """Tells how to get the file into a folder by hand."""
        access = "ask for access, log in and " if self.gated else ""
        return (
            f"{access}download {self.path} from huggingface.co/{self.repository} and put it at "
            f"{folder / self.file}"
        )


@dataclass(frozen=True)
class ByHand:
    """A file that no plain download gives.

    Attributes:
        file: name that the file gets.
        how: how to get it; `and put it at …` completes the sentence.
    """

    file: str
    how: str

    def remedy(self, folder: Path) -> str:
        """Tells how to get the file into a folder."""
        return f"{self.how} and put it at {folder / self.file}"


Origin = Wheel | Web | Hub | ByHand
