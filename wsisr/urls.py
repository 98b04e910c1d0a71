"""URLs of slides and outputs: what they are called, and the file systems that they lead to.

A URL may carry a password or a signature. No message, log or output of this package holds either:
`shown` is what a URL is called, and errors of the drivers are retold, for they quote URLs whole.
"""

from __future__ import annotations

import errno
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from wsisr.errors import UsageError

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
"""A scheme of two letters or more: a single one is a drive of Windows."""
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Scheme -> the extra of this package that brings its driver."""
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or FSSPEC_S3_ANON=true "
    "for a public bucket",
    "gcs": "run `gcloud auth application-default login`, or set FSSPEC_GS_TOKEN=anon for a public "
    "bucket",
    "http": "ask for a new link, or for the right to read it",
}
"""Extra -> what to do where access is refused."""
LOGGERS = (
    "fsspec",
    "fsspec.http",
    "s3fs",
    "gcsfs",
    "botocore",
    "aiobotocore",
    "aiohttp",
    "urllib3",
)
ACCOUNT_SCHEMES = ("abfs", "abfss")
"""Schemes whose `name@host` names a container."""
TRIES = 5
PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
SILENCE_S = 60.0
"""A server that sends nothing for so long is given up for this try."""

T = TypeVar("T")


def is_url(place: object) -> bool:
    """Tells whether a text is a URL; a path, as `Path`, never is."""
    return isinstance(place, str) and URL.match(place) is not None


def scheme_of(url: str) -> str:
    """Gives the scheme of a URL, in small letters."""
    return url.partition("://")[0].lower()


def shown(place: str) -> str:
    """Gives a URL without user, password, query and fragment, and a path as it is."""
    if not is_url(place):
        return place
    try:
        parts = urlsplit(place)
    except ValueError:
        # what cannot be taken apart may hold a secret anywhere
        return f"{scheme_of(place)}://..."
    host = parts.netloc
    if parts.scheme.lower() not in ACCOUNT_SCHEMES:
        host = host.rpartition("@")[2]
    # a query of s3:// is part of the name to no driver, and may hold what is secret
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def name_of(url: str) -> str:
    """Gives the file or folder name that a URL ends in.

    Raises:
        UsageError: it ends in none.
    """
    name = last_part(url)
    if name in ("", ".", "..") or any(sign in name for sign in "\\\0"):
        raise UsageError(f"{shown(url)[:300]}: names no file; give the URL of a slide")
    return name


def last_part(place: str) -> str:
    """Gives the last part of a URL or path; empty for a URL that has a host alone."""
    if not is_url(place):
        return Path(place).name or Path(place).resolve().name
    try:
        path = urlsplit(place).path
    except ValueError:
        return ""
    return PurePosixPath(unquote(path) if EXTRAS.get(scheme_of(place)) == "http" else path).name


def file_system(url: str) -> tuple[Any, str]:
    """Opens the file system that a URL leads to.

    Args:
        url: the URL.

    Returns:
        An fsspec file system, and the URL as its methods take it.

    Raises:
        UsageError: no driver knows the scheme, or it is not installed.
    """
    import fsspec

    for name in LOGGERS:
        # their debug messages quote headers and URLs whole
        logging.getLogger(name).setLevel(logging.WARNING)
    scheme = scheme_of(url)
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        if EXTRAS.get(scheme) == "http":
            import aiohttp

            patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=SILENCE_S)
            options["client_kwargs"] = {"timeout": patience}
        system = fsspec.filesystem(scheme, **options)
    except ImportError:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'wsisr[{extra}]'" if extra else "install the fsspec driver of it"
        raise UsageError(f"{shown(url)}: no driver of {scheme}:// is installed; {remedy}") from None
    except ValueError:
        raise UsageError(
            f"{shown(url)}: {scheme}:// is not known; give s3://, gs://, https:// or a path"
        ) from None
    return system, system._strip_protocol(url)


def _cause(error: BaseException) -> BaseException:
    """Gives what stands behind an error: the http driver takes every refusal for a missing file."""
    cause = error.__cause__
    return cause if cause and type(cause).__module__.startswith("aiohttp") else error


def reason_of(url: str, error: BaseException) -> str:
    """Says in words of our own why a driver failed, and what to do.

    Args:
        url: what the driver was asked for.
        error: what it raised, whose text may quote a signature.
    """
    error = _cause(error)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return "does not exist; check the URL"
    remedy = CREDENTIALS.get(EXTRAS.get(scheme_of(url), ""), "check the credentials of its driver")
    if "Credentials" in type(error).__name__:
        return f"no credentials were found; {remedy}"
    if isinstance(error, PermissionError) or status in (401, 403):
        return f"access was refused; {remedy}"
    if isinstance(status, int):
        return f"the server answers {status}; try again later"
    if isinstance(error, TimeoutError):
        return "the server is silent; check the network and run again"
    return f"the connection fails ({type(error).__name__}); check the network and run again"


def is_lasting(error: BaseException) -> bool:
    """Tells whether another try would end in the same error."""
    error = _cause(error)
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 425, 429)
    if isinstance(error, OSError) and error.errno == errno.EINVAL:
        # a range behind the end of an object
        return True
    lasting = (FileNotFoundError, PermissionError, NotImplementedError, ValueError, TypeError)
    return isinstance(error, lasting) or "Credentials" in type(error).__name__


def pause(failures: int) -> None:
    """Waits before another try, longer each time."""
    time.sleep(min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (failures - 1)))


def retried(action: Callable[[], T]) -> T:
    """Carries out an action of a driver, again after an error that may pass.

    Raises:
        Exception: what the last try raised.
    """
    for failures in range(1, TRIES):
        try:
            return action()
        except Exception as error:
            if is_lasting(error):
                raise
        pause(failures)
    return action()
