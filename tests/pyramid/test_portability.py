"""Writing and resuming where the system has none of what Linux alone has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pyramid.support import all_tiles, decode, feed, picture, write
from wsisr.errors import OutputError
from wsisr.pyramid import PyramidSpec, open_writer

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 300, 200
OUTPUTS = (("out.ome.tif", "tiff"), ("out.ome.zarr", "0.4"), ("out.ome.zarr", "0.5"))
"""Name and format: a TIFF, or an NGFF version; each in a folder of its own."""
HIDDEN = """
import os, sys
from pathlib import Path
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("fdatasync", "pread", "pwrite", "sched_getaffinity", "O_DIRECTORY", "fork"):
    if hasattr(os, name):
        delattr(os, name)
import wsisr.files
wsisr.files._POSIX = False
from tests.pyramid import test_portability
for name, kind in test_portability.OUTPUTS:
    test_portability.interrupt_and_resume(Path(sys.argv[1], kind, name), kind)
"""


def spec_of(kind: str) -> PyramidSpec:
    version = "0.5" if kind == "0.5" else "0.4"
    return PyramidSpec(WIDTH, HEIGHT, 0.25, 40, tile=32, zarr_version=version)


def interrupt_and_resume(out: Path, kind: str) -> None:
    """Writes some tiles, gives up, and goes on; a second run is refused meanwhile."""
    spec, pixels = spec_of(kind), picture(WIDTH, HEIGHT)
    with open_writer(out, spec, threads=2, fingerprint="run") as writer:
        feed(writer, pixels, all_tiles(spec)[:41])
        with pytest.raises(OutputError, match="another run"):
            open_writer(out, spec, fingerprint="run")
    with open_writer(out, spec, threads=2, fingerprint="run") as writer:
        assert sum(writer.done(*tile) for tile in all_tiles(spec)) == 41
        feed(writer, pixels)
        writer.finish()


def test_without_what_linux_has(tmp_path: Path) -> None:
    folder = tmp_path / "mit Leerzeichen\\ und Größe"
    for _, kind in OUTPUTS:
        (folder / kind).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, kind in OUTPUTS:
        out = folder / kind / name
        assert list(out.parent.iterdir()) == [out]
        (tmp_path / kind).mkdir()
        whole = write(tmp_path / kind / name, spec_of(kind), picture(WIDTH, HEIGHT))
        for got, wanted in zip(decode(out), decode(whole), strict=True):
            assert np.array_equal(got, wanted)
