"""Downloads weights into a folder; whether they are the right ones is for the caller to check."""

from __future__ import annotations

import logging
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pooch

from wsisr.errors import ModelError
from wsisr.evaluation.weights.origins import ByHand, Hub, Web, Wheel
from wsisr.evaluation.weights.registry import Weights

TIMEOUT_S = 60
RETRIES = 2
"""Further tries after a download that broke off."""
SHA256_DIGITS = 64
HUB = "https://huggingface.co"


def download_weights(entry: Weights, scratch: Path) -> dict[str, Path]:
    """Downloads the files of an entry, with progress on stderr; nothing of them is executed.

    Args:
        entry: what to download.
        scratch: an empty folder.

    Returns:
        {file name: path below `scratch`}.

    Raises:
        ModelError: the files cannot be reached, or not by a program.
    """
    match entry.origin:
        case Web():
            return _from_web(entry.origin, entry.files[entry.origin.file], scratch)
        case Hub():
            return _from_hub(entry.origin, scratch)
        case Wheel():
            return _from_index(entry.origin, scratch)
        case ByHand():
            raise ModelError("there is no download that a program can take")


def _from_web(origin: Web, digest: str | None, scratch: Path) -> dict[str, Path]:
    # the beginning of a digest cannot be told to pooch: the caller checks that
    whole = digest is not None and len(digest) == SHA256_DIGITS
    registry: dict[str, Any] = {origin.file: f"sha256:{digest}" if whole else None}
    pooch.get_logger().setLevel(logging.WARNING)
    files = pooch.Pooch(
        path=scratch,
        base_url="",
        registry=registry,
        urls={origin.file: origin.url},
        retry_if_failed=RETRIES,
    )
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT_S)
    try:
        return {origin.file: Path(files.fetch(origin.file, downloader=downloader))}
    except OSError as error:  # those of the network too
        raise ModelError(f"{origin.url} cannot be downloaded: {error}") from error
    except ValueError as error:
        raise ModelError(f"{origin.url} gave another {origin.file}") from error


def _from_hub(origin: Hub, scratch: Path) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # the hub's own client would try for half a minute and log every try
        with urllib.request.urlopen(HUB, timeout=TIMEOUT_S):
            pass
    except OSError as error:
        raise ModelError(f"{HUB} cannot be reached: {error}") from error
    try:
        found = hf_hub_download(origin.repository, origin.path, local_dir=scratch)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"huggingface.co/{origin.repository}: {reason}") from error
    return {origin.file: Path(found)}


def _from_index(origin: Wheel, scratch: Path) -> dict[str, Path]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    command += ["--only-binary", ":all:", "--dest", str(scratch), origin.requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(f"pip cannot download {origin.requirement}: {reason}")
    return unpack_wheel(wheels[0], origin, scratch)


def unpack_wheel(wheel: Path, origin: Wheel, folder: Path) -> dict[str, Path]:
    """Unpacks an origin's files from its downloaded wheel; nothing else of it is touched.

    Args:
        wheel: the wheel.
        origin: which members are wanted.
        folder: where they go.

    Returns:
        {file name: path in `folder`}.

    Raises:
        ModelError: the archive is another one.
    """
    found = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file, member in origin.members.items():
                found[file] = folder / file
                found[file].write_bytes(archive.read(member))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel} is not the wheel of {origin.requirement}: {error}") from error
    return found
