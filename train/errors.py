"""What goes wrong in training on purpose; messages name the file and the remedy."""

from __future__ import annotations

from wsisr.errors import WsisrError


class DataError(WsisrError):
    """Training data that cannot be used."""


class CheckpointError(WsisrError):
    """A checkpoint that cannot be written or read."""


class TrainingDivergedError(WsisrError):
    """The loss is no longer finite; the last good checkpoint stays."""
