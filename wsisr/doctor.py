"""What this machine offers wsisr: versions, devices, libraries, and how to get what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from wsisr.errors import WsisrError
from wsisr.evaluation.weights import (
    REGISTRY,
    WEIGHTS_VARIABLE,
    present_weights,
    weights_folder,
)
from wsisr.models import DEFAULT_MODEL, load_upscaler
from wsisr.models.published import INSTALL
from wsisr.version import VERSION

REQUIRED = (
    ("torch", "torch"),
    ("diffusers", "diffusers"),
    ("accelerate", "accelerate"),
    ("openslide", "openslide-python"),
    ("tifffile", "tifffile"),
    ("imagecodecs", "imagecodecs"),
    ("numpy", "numpy"),
    ("skimage", "scikit-image"),
    ("cv2", "opencv-python-headless"),
    ("numba", "numba"),
    ("safetensors", "safetensors"),
)
OPTIONAL = (
    ("zarr", "zarr", "pip install 'wsisr[zarr]' for OME-Zarr"),
    ("triton", "triton", "comes with a CUDA build of torch; GPU kernels fall back to torch"),
)


@dataclass(frozen=True)
class Check:
    """One line of the report: `state` is ok, missing or note."""

    subject: str
    state: str
    detail: str


def examine() -> list[Check]:
    """Look at everything; never raises for what it finds."""
    checks = [
        Check("wsisr", "ok", VERSION),
        Check("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
    ]
    checks += [_library(module, package, None) for module, package in REQUIRED]
    checks += [_library(module, package, remedy) for module, package, remedy in OPTIONAL]
    checks += [_spandrel(), _openslide(), _devices(), _cpu(), _disk(), _shipped_model(), _weights()]
    return checks


def _library(module: str, package: str, remedy: str | None) -> Check:
    try:
        importlib.import_module(module)
        return Check(package, "ok", importlib.metadata.version(package))
    except ImportError as error:
        if remedy is not None:
            return Check(package, "note", f"not installed: {remedy}")
        return Check(package, "missing", f"{error}; pip install {package}")


def _spandrel() -> Check:
    # told by its metadata: importing it takes seconds and fails beside some builds of torchvision
    try:
        return Check("spandrel", "ok", importlib.metadata.version("spandrel"))
    except importlib.metadata.PackageNotFoundError:
        return Check("spandrel", "note", f"not installed: {INSTALL} for --model FILE")


def _openslide() -> Check:
    try:
        openslide = importlib.import_module("openslide")
    except (ImportError, OSError) as error:
        return Check("openslide library", "missing", f"{error}; pip install openslide-bin")
    return Check("openslide library", "ok", str(openslide.__library_version__))


def _devices() -> Check:
    if not torch.cuda.is_available():
        return Check("GPU", "note", "none usable by torch; the CPU is used")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", "ok", ", ".join(names))


def _cpu() -> Check:
    capability = torch.backends.cpu.get_cpu_capability()
    return Check(
        "CPU", "ok", f"{os.cpu_count()} cores, {capability}, {torch.get_num_threads()} threads"
    )


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", "ok" if free > 5 else "note", f"{free:.0f} GiB free in this folder")


def _shipped_model() -> Check:
    try:
        load_upscaler(DEFAULT_MODEL)
    except WsisrError as error:
        return Check("model tiny", "missing", f"{error}; reinstall wsisr")
    return Check("model tiny", "ok", "loads")


def _weights() -> Check:
    """Tell which weights of `wsisr eval` are there; none is needed to run it."""
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
