"""How slides, outputs and reasons are written down: without secrets, on one line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from wsisr.urls import shown

_URL = re.compile(r"[a-z][a-z0-9+.-]+://[^\s'\"<>;,)]+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def one_line(text: str) -> str:
    """Makes a text that every file and page can hold, and in which URLs have no secrets."""
    # names of files may hold bytes that are no text
    text = text.encode("utf-8", "replace").decode()
    text = _CONTROL.sub(" ", text).strip()
    return _URL.sub(lambda found: shown(found[0]), text)


def relative(path: Path, folder: Path) -> str | None:
    """Gives the path from a folder to what lies below it; None for what does not.

    Args:
        path: of a file.
        folder: where the path starts.
    """
    try:
        below = Path(os.path.abspath(path)).relative_to(os.path.abspath(folder))  # noqa: PTH100
    except ValueError:
        return None
    return one_line(below.as_posix())


def duration(seconds: float | None) -> str:
    """Says a duration as people do; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
