"""What goes wrong in training on purpose; messages name the file and the remedy."""

from __future__ import annotations

from wsisr.errors import UsageError, WsisrError


class DataError(WsisrError):
    """Training data that cannot be used."""


class CheckpointError(WsisrError):
    """A checkpoint that cannot be written or read."""


class TrainingDivergedError(WsisrError):
    """The loss is no longer finite; the last good checkpoint stays."""


class StageError(WsisrError):
    """A stage of a run that ended with an error, which it has printed itself."""

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(
            f"{stage} failed (see above); put it right and give the same command again"
        )
        self.exit_code = code if code > 0 else 1


def require(holds: bool, says: str) -> None:
    """Raise UsageError(says) for a setting that does not do."""
    if not holds:
        raise UsageError(says)
