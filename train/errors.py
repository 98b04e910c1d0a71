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
    """A stage of a run that ended with an error, which it has printed itself.

    Args:
        stage: its name.
        code: its exit code.
    """

    def __init__(self, stage: str, code: int) -> None:
        super().__init__(
            f"{stage} failed (see above); put it right and give the same command again"
        )
        self.exit_code = code if code > 0 else 1


def require(holds: bool, message: str) -> None:
    """Checks a rule between settings.

    Args:
        holds: whether it is kept.
        message: what the error says otherwise.

    Raises:
        UsageError: it is not kept.
    """
    if not holds:
        raise UsageError(message)
