"""What is told to people: on stderr, and in a log file where one is asked for."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from wsisr.files import os_errors

FORMAT = "%(asctime)s %(levelname)s %(message)s"
_log = logging.getLogger("wsisr.told")
_log.propagate = False
_files: list[logging.Handler] = []


def tell(message: str) -> None:
    """Writes a line on stderr, and to the log file."""
    click.echo(message, err=True)
    note(message)


def note(message: str) -> None:
    """Writes a line to the log file alone, for what stderr shows in another way."""
    if _files:
        _log.info(message)


def log_to(path: Path) -> None:
    """Appends what is told from now on to a file, warnings of all modules among it.

    Args:
        path: the file; what it holds already is kept.

    Raises:
        OutputError: it cannot be written.
    """
    stop_logging()
    with os_errors(path):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    _files.append(handler)
    _log.setLevel(logging.INFO)
    for logger in (_log, logging.getLogger()):
        logger.addHandler(handler)


def stop_logging() -> None:
    """Closes the log file, if there is one."""
    while _files:
        handler = _files.pop()
        for logger in (_log, logging.getLogger()):
            logger.removeHandler(handler)
        handler.close()
