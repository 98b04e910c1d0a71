"""Everything wsisr raises on purpose. A message names the file or option and the remedy."""

from __future__ import annotations


class WsisrError(Exception):
    """Base of all expected failures; its text is one line meant for the user."""

    exit_code = 1


class UsageError(WsisrError):
    """An option or a combination of options that cannot be carried out."""

    exit_code = 2


class SlideError(WsisrError):
    """A slide that cannot be opened, read or understood."""


class ModelError(WsisrError):
    """A model that is missing, incomplete, of the wrong shape or unsafe to load."""


class OutputError(WsisrError):
    """An output that cannot be created, written or finished."""
