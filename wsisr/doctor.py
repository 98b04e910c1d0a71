"""What this machine offers wsisr: versions, devices, libraries, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from wsisr.caches import REMEDY, can_write, temporary_folder, user_folder
from wsisr.errors import WsisrError
from wsisr.evaluation.weights import (
    REGISTRY,
    WEIGHTS_VARIABLE,
    present_weights,
    weights_folder,
)
from wsisr.models import DEFAULT_MODEL, load_upscaler
from wsisr.version import VERSION

FOR_DEVELOPERS = {"dev", "test"}
"""Extras that users of wsisr have no need of."""
PURPOSES = {"spandrel": "to use weight files as models", "train": "to train models"}
"""What extras are for."""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        subject: what was looked at.
        state: `ok`, `missing` (wsisr does not work without) or `note`.
        detail: what was found, and the remedy.
    """

    subject: str
    state: str
    detail: str


def examine() -> list[Check]:
    """Looks at everything; nothing that it finds makes it fail."""
    return [
        Check("wsisr", "ok", VERSION),
        Check("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *_libraries(),
        _triton(),
        _openslide(),
        _libvips(),
        _devices(),
        _cpu(),
        _disk(),
        _caches(),
        _shipped_model(),
        _weights(),
    ]


def _libraries() -> Iterator[Check]:
    """Looks at what the package's own metadata require, and at what its extras do."""
    try:
        metadata = importlib.metadata.metadata("wsisr")
    except importlib.metadata.PackageNotFoundError:
        yield Check("requirements", "note", "wsisr is not installed, so they are not known")
        return
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
    modules = _modules_by_package()
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _required(requirement, modules)
    for extra in sorted(set(metadata.get_all("Provides-Extra") or ()) - FOR_DEVELOPERS):
        for requirement in requirements:
            marker = requirement.marker
            if marker and marker.evaluate({"extra": extra}) > marker.evaluate({"extra": ""}):
                yield _optional(requirement, extra)


def _modules_by_package() -> Mapping[str, Sequence[str]]:
    """Gives the modules to import of each installed package: that of its own name, else all."""
    found: dict[str, list[str]] = {}
    for module, packages in importlib.metadata.packages_distributions().items():
        for package in packages:
            found.setdefault(canonicalize_name(package), []).append(module)
    for package, modules in found.items():
        own = package.replace("-", "_")
        if own in modules:
            found[package] = [own]
    return found


def _required(requirement: Requirement, modules: Mapping[str, Sequence[str]]) -> Check:
    """Checks a library's version, and that it can be imported."""
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = importlib.metadata.version(requirement.name)
        for module in modules.get(canonicalize_name(requirement.name), ()):
            importlib.import_module(module)
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, "missing", f"not installed; {remedy}")
    except (ImportError, OSError) as error:
        return Check(requirement.name, "missing", f"{_one_line(error)}; {remedy}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "missing", f"{version} does not do; {remedy}")
    return Check(requirement.name, "ok", version)


def _optional(requirement: Requirement, extra: str) -> Check:
    """Checks a library's version by its metadata: importing spandrel, for one, takes seconds."""
    try:
        return Check(requirement.name, "ok", importlib.metadata.version(requirement.name))
    except importlib.metadata.PackageNotFoundError:
        remedy = f"pip install 'wsisr[{extra}]' {PURPOSES.get(extra, '')}".rstrip()
        return Check(requirement.name, "note", f"not installed: {remedy}")


def _triton() -> Check:
    try:
        return Check("triton", "ok", importlib.metadata.version("triton"))
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "triton",
            "note",
            "not installed: it comes with a CUDA build of torch; GPU kernels fall back to torch",
        )


def _openslide() -> Check:
    try:
        openslide = importlib.import_module("openslide")
    except (ImportError, OSError) as error:
        return Check(
            "openslide library", "missing", f"{_one_line(error)}; pip install openslide-bin"
        )
    return Check("openslide library", "ok", str(openslide.__library_version__))


def _libvips() -> Check:
    try:
        pyvips = importlib.import_module("pyvips")
    except (ImportError, OSError) as error:
        return Check(
            "libvips library", "missing", f"{_one_line(error)}; pip install 'pyvips[binary]'"
        )
    return Check("libvips library", "ok", ".".join(str(pyvips.version(part)) for part in range(3)))


def _devices() -> Check:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", ", ".join(names))
    if torch.backends.mps.is_available():
        return Check("GPU", "ok", "Apple's, through Metal (mps)")
    return Check("GPU", "note", "none usable by torch; the CPU is used")


def _cpu() -> Check:
    capability = torch.backends.cpu.get_cpu_capability()
    return Check(
        "CPU", "ok", f"{os.cpu_count()} cores, {capability}, {torch.get_num_threads()} threads"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in this folder")


def _caches() -> Check:
    """Tells where compiled kernels and downloads go; without a place most commands do not run."""
    own, temporary = user_folder(), temporary_folder()
    if own is not None and can_write(own):
        return Check("caches", "ok", str(own))
    why = "the user's folder of caches is not known" if own is None else f"{own} cannot be written"
    if temporary is None:
        return Check("caches", "missing", f"{why}, nor can the temporary folder; {REMEDY}")
    return Check("caches", "note", f"{why}; {temporary} is used, which may not last: {REMEDY}")


def _shipped_model() -> Check:
    try:
        load_upscaler(DEFAULT_MODEL)
    except WsisrError as error:
        return Check("model tiny", "missing", f"{error}; reinstall wsisr")
    return Check("model tiny", "ok", "loads")


def _weights() -> Check:
    """Tells which weights of `wsisr eval` are there; none is needed to run it."""
    there = present_weights()
    lacking = sorted(REGISTRY.keys() - set(there))
    detail = f"{weights_folder()}: {', '.join(there) if there else 'none'}"
    if not lacking:
        return Check(WEIGHTS_VARIABLE, "ok", detail)
    return Check(
        WEIGHTS_VARIABLE,
        "note",
        f"{detail}; measures and segmenters that need {', '.join(lacking)} do not run: "
        "`wsisr models fetch NAME`",
    )


def _one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))
