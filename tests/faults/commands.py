"""Commands that write small outputs, run in forks that something goes wrong in."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from tests.engine.support import tissue_like
from tests.faults.injection import Fault, Injector
from tests.processes import CONTEXT, Done
from tests.pyramid.support import decode

COMMANDS = ("upscale", "convert")
FORMATS = ("tiff", "0.4", "0.5")
UPSCALE = ("--model", "bicubic", "--device", "cpu", "--tissue", "off", "--scale", "2")
WINDOWS = ("--window", "128", "--overlap", "32", "--batch", "1")


@dataclass(frozen=True)
class Case:
    """A command that writes a format, maybe over an older output.

    Attributes:
        command: `upscale` or `convert`.
        kind: `tiff`, or the version of OME-Zarr.
        overwrite: whether an older output is replaced.
    """

    command: str
    kind: str
    overwrite: bool = False

    def arguments(self, folder: Path) -> list[str]:
        """Gives the words of the command line."""
        source, out = folder / "in.tif", self.out(folder)
        words = [self.command, str(source), str(out), "--tile", "32", "--input-mpp", "1"]
        words += [*UPSCALE, *WINDOWS] if self.command == "upscale" else ["--threads", "1"]
        words += (
            ["--compression", "deflate"] if self.kind == "tiff" else ["--zarr-version", self.kind]
        )
        return [*words, "--overwrite"] if self.overwrite else words

    def out(self, folder: Path) -> Path:
        """Names the output."""
        return folder / f"out.ome.{'tif' if self.kind == 'tiff' else 'zarr'}"


def make_slide(folder: Path, seed: int) -> None:
    """Writes a slide, another one for another seed."""
    pixels = tissue_like(90, 70, seed)
    tifffile.imwrite(folder / "in.tif", pixels, photometric="rgb", tile=(32, 32))


def run(arguments: list[str], folder: Path, log: Path, fault: Fault | None = None) -> Done:
    """Runs a command in a fork, where `fault` strikes; a negative code is that of a signal."""
    stderr = log.with_name("stderr")
    process = CONTEXT.Process(target=_main, args=(arguments, folder, log, stderr, fault))
    process.start()
    process.join(120)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{fault} in {arguments} hangs")
    text = stderr.read_text() if stderr.exists() else ""
    return Done(process.exitcode, "", text)


def _main(arguments: list[str], folder: Path, log: Path, stderr: Path, fault: Fault | None) -> None:
    fd = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["wsisr", *arguments]
    from wsisr.cli import run as run_command

    Injector(folder, log, fault).install()
    run_command()


def pixels_of(out: Path) -> list[np.ndarray] | None:
    """Decodes every level; None where there is no output."""
    return decode(out) if out.exists() else None


def are_same(found: list[np.ndarray] | None, wanted: list[np.ndarray]) -> bool:
    """Tells whether all levels are as they should be."""
    return (
        found is not None
        and len(found) == len(wanted)
        and all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
    )
