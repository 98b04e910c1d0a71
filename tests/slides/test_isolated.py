"""A process of its own decodes: the same pixels, and a crash in it ends no run without a word."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from tests.processes import Run, python
from wsisr.errors import SlideError
from wsisr.slides import open_slide
from wsisr.slides.isolated import VARIABLE
from wsisr.slides.isolated import decoder as module

ICC = b"not a profile, carried as it is"


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "in.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    options = {"photometric": "rgb", "tile": (64, 64), "compression": "deflate"}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, iccprofile=ICC, resolution=(20000, 20000), resolutionunit=3, **options)
        file.write(pixels[::4, ::4], subfiletype=1, **options)
    return path


def damage(slide: Path) -> None:
    """Makes the data of the first tile no stream of deflate."""
    with tifffile.TiffFile(slide) as file:
        offset = file.pages.first.dataoffsets[0]
    with slide.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)


def test_the_pixels_and_all_that_is_known_are_the_same(
    slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_slide(slide) as here:
        monkeypatch.setenv(VARIABLE, "1")
        with open_slide(slide) as there:
            assert module._current is not None
            names = "path levels width height mpp magnification icc_profile background vendor"
            for name in (*names.split(), "properties"):
                assert getattr(there, name) == getattr(here, name), name
            assert sorted(there.associated) == sorted(here.associated)
            for level, x, y, width, height in (
                (0, 0, 0, 400, 300),
                (0, 63, 130, 77, 91),
                (0, -20, -20, 100, 500),
                (1, 5, 5, 9, 9),
                (0, 1000, 0, 4, 4),
            ):
                np.testing.assert_array_equal(
                    there.read(level, x, y, width, height), here.read(level, x, y, width, height)
                )


def test_associated_images_come_through(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data_dir / "slides" / "cmu-1-small-region.svs"
    with open_slide(path) as here:
        monkeypatch.setenv(VARIABLE, "1")
        with open_slide(path) as there:
            assert dict(there.properties) == dict(here.properties)
            for name in here.associated:
                np.testing.assert_array_equal(there.associated[name], here.associated[name])


@pytest.mark.usefixtures("isolated")
def test_several_threads_read_at_once(slide: Path) -> None:
    with open_slide(slide) as there:
        whole = there.read(0, 0, 0, 400, 300)
        wrong = []

        def read(seed: int) -> None:
            for x, y in np.random.default_rng(seed).integers(0, 200, (40, 2)):
                if not np.array_equal(there.read(0, x, y, 90, 80), whole[y : y + 80, x : x + 90]):
                    wrong.append((x, y))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.usefixtures("isolated")
def test_errors_and_damage_are_told_as_if_they_came_from_here(slide: Path, tmp_path: Path) -> None:
    damage(slide)
    with open_slide(slide) as there, pytest.raises(SlideError, match=r"in\.tif"):
        there.read(0, 0, 0, 64, 64)
    found: set[tuple[str, int, int]] = set()
    with open_slide(slide, unreadable=found) as there:
        assert (there.read(0, 0, 0, 64, 64) == 255).all()
    assert found == {("level 0", 0, 0)}
    with pytest.raises(SlideError, match="does not exist"):
        open_slide(tmp_path / "missing.svs")
    there.close()
    with pytest.raises(SlideError, match="closed"):
        there.read(0, 0, 0, 8, 8)


@pytest.mark.usefixtures("isolated")
def test_a_crash_names_the_file_and_another_slide_can_be_opened(slide: Path) -> None:
    with open_slide(slide) as there:
        first = module.decoder()
        os.kill(first._process.pid, signal.SIGSEGV)
        first._process.wait(30)
        with pytest.raises(SlideError, match=r"in\.tif: the process .* SIGSEGV; .*trust_input"):
            there.read(0, 0, 0, 64, 64)
    with open_slide(slide) as there:
        assert module.decoder() is not first
        assert there.read(0, 0, 0, 64, 64).shape == (64, 64, 3)


def test_the_child_ends_with_its_parent(slide: Path) -> None:
    code = (
        "import sys, os, signal\n"
        "from wsisr.slides import open_slide\n"
        "from wsisr.slides.isolated.decoder import decoder\n"
        "slide = open_slide(sys.argv[1])\n"
        "print(decoder()._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    os.environ[VARIABLE] = "1"
    try:
        pid = int(python(code, slide).stdout)
    finally:
        del os.environ[VARIABLE]
    _, alive = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 10)
    assert not alive


def test_a_run_whose_decoder_crashes_says_which_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (2000, 2000, 3), np.uint8)
    tifffile.imwrite(tmp_path / "big.tif", pixels, photometric="rgb", tile=(64, 64))
    out = tmp_path / "out.ome.tif"
    options = ("--input-mag", 10, "--model", "bicubic", "--scale", 4, "--tissue", "off")
    run = Run("upscale", tmp_path / "big.tif", out, *options, WSISR_TRUST_INPUT="0")
    while not out.with_name("out.ome.tif.partial").exists():
        assert run.poll() is None
        threading.Event().wait(0.01)
    children = [p for p in psutil.Process(run.pid).children() if "isolated" in "".join(p.cmdline())]
    assert len(children) == 1
    children[0].send_signal(signal.SIGSEGV)
    done = run.wait()
    assert done.returncode == 1
    told = done.stderr.splitlines()[-1]
    assert told.startswith(
        f"wsisr: {tmp_path / 'big.tif'}: the process that decodes it was ended by"
    )
    assert "SIGSEGV" in told
    assert "--trust-input" in told
