"""Where caches lie: in the user's folder, or in a temporary one where that cannot be written.

Compiled kernels, downloaded weights and copies of remote slides go there. A container with a user
of its own, or a cluster without homes, has no folder for them, and libraries that keep caches of
their own fail there; `prepare_caches` gives those a place, too.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

from wsisr.errors import OutputError

REMEDY = "set XDG_CACHE_HOME to a folder that can be written"
VARIABLES = {
    "NUMBA_CACHE_DIR": "numba",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "HF_HOME": "huggingface",
}
"""What tells libraries where to keep their caches -> the folder in ours."""


def user_folder() -> Path | None:
    """Gives the user's folder for wsisr's caches, written or not; None where it cannot be found."""
    try:
        folder = platformdirs.user_cache_path("wsisr")
    except RuntimeError:  # nobody knows the home of the user
        return None
    # some versions leave a `~` in it, which would become a folder of that name right here
    return folder if folder.is_absolute() else None


def can_write(folder: Path) -> bool:
    """Tells whether files can be made in a folder, which need not be there yet."""
    for place in (folder, *folder.parents):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and os.access(place, os.W_OK | os.X_OK)
    return False


@cache
def temporary_folder() -> Path | None:
    """Gives a temporary folder of this user alone; None where there is no room for one.

    It is the same for all processes of the user, so that kernels are compiled once. Caches hold
    code, so a folder that somebody else could write to is not used.
    """
    try:
        parent = Path(tempfile.gettempdir())
    except OSError:
        return None
    number = os.getuid() if hasattr(os, "getuid") else "user"
    folder = parent / f"wsisr-cache-{number}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if _is_ours(folder) and can_write(folder):
            return folder
        return Path(tempfile.mkdtemp(prefix="wsisr-cache-", dir=parent))
    except OSError:
        return None


def cache_folder(name: str = "") -> Path:
    """Gives the folder of wsisr's caches, the user's or else a temporary one.

    Args:
        name: of a cache in it; one that the user has already serves, though it cannot be written.

    Raises:
        OutputError: neither can be written.
    """
    own = user_folder()
    if own is not None and (can_write(own) or (name and (own / name).is_dir())):
        return own / name
    folder = temporary_folder()
    if folder is None:
        raise OutputError(
            "neither the user's folder of caches nor the system's temporary folder can be written; "
            f"{REMEDY}"
        )
    return folder / name


def prepare_caches() -> None:
    """Points the caches of libraries to our temporary folder where the user has none.

    Nothing is changed where the user's folder can be written, or a variable is set already.
    """
    own = user_folder()
    if own is not None and can_write(own):
        return
    folder = temporary_folder()
    if folder is None:
        return
    for variable, name in VARIABLES.items():
        os.environ.setdefault(variable, str(folder / name))
    if "numba" in sys.modules:
        # it has read the variables already
        from numba.core import config

        config.reload_config()


def check_caches() -> None:
    """Makes sure that compiled kernels have a place, without which they cannot even be loaded.

    Raises:
        OutputError: they have none.
    """
    if "NUMBA_CACHE_DIR" not in os.environ and not can_write(Path(__file__).parent):
        cache_folder()


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    is_own = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and is_own and not stat.S_IMODE(found.st_mode) & 0o022
