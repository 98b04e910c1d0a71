"""Writing and resuming where the system has none of what Linux alone has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pyramid.support import all_tiles, decode, feed, picture, write
from wsisr.pyramid import PyramidSpec, open_writer

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 300, 200
HIDDEN = """
import os, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("fdatasync", "pread", "pwrite", "sched_getaffinity", "O_DIRECTORY", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import wsisr.files
wsisr.files._POSIX = False
from tests.pyramid import test_portability
test_portability.interrupt_and_resume(*sys.argv[1:])
"""


def spec_of(version: str) -> PyramidSpec:
    return PyramidSpec(WIDTH, HEIGHT, 0.25, 40, tile=32, zarr_version=version)  # type: ignore[arg-type]


def interrupt_and_resume(out: str, version: str) -> None:
    """Writes some tiles, gives up, goes on, and takes the output a second time meanwhile."""
    spec, pixels = spec_of(version), picture(WIDTH, HEIGHT)
    with open_writer(out, spec, threads=2, fingerprint="run") as writer:
        feed(writer, pixels, all_tiles(spec)[:41])
        try:
            open_writer(out, spec, fingerprint="run")
        except Exception as error:
            assert "another run" in str(error), error
        else:
            raise AssertionError("two runs write one output")
    with open_writer(out, spec, threads=2, fingerprint="run") as writer:
        assert sum(writer.done(*tile) for tile in all_tiles(spec)) == 41
        feed(writer, pixels)
        writer.finish()


@pytest.mark.parametrize(
    ("name", "version"), [("out.ome.tif", "0.4"), ("out.ome.zarr", "0.4"), ("out.ome.zarr", "0.5")]
)
def test_without_what_linux_has(name: str, version: str, tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen\\ und Größe"
    folder.mkdir()
    out = folder / name
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", HIDDEN, str(out), version],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == [out]
    whole = write(tmp_path / name, spec_of(version), picture(WIDTH, HEIGHT))
    for got, wanted in zip(decode(out), decode(whole), strict=True):
        assert np.array_equal(got, wanted)
