"""The streaming writer: any size, any order, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pyramid.support import all_tiles, decode, feed, picture, reference_levels, tile_of, write
from wsisr import files
from wsisr.errors import ExistsError, OutputError, UsageError
from wsisr.pyramid import PyramidSpec, open_writer, tiff
from wsisr.pyramid.records import journal_path, read_journal
from wsisr.resize import halve
from wsisr.slides import open_slide
from wsisr_kernels.blocks.reference import block_means


def spec_of(width: int = 300, height: int = 200, **options: object) -> PyramidSpec:
    return PyramidSpec(width, height, 0.25, 40, **{"tile": 32, **options})  # type: ignore[arg-type]


FORMATS: dict[str, tuple[str, dict[str, object], float]] = {
    "deflate": ("out.ome.tif", {"compression": "deflate"}, 0),
    "zstd": ("out.ome.tif", {"compression": "zstd"}, 0),
    "jpeg-420": ("out.ome.tif", {}, 12),
    "jpeg-422": ("out.ome.tif", {"subsampling": "422"}, 12),
    "jpeg-444": ("out.ome.tif", {"subsampling": "444"}, 12),
    "jpeg2000": ("out.ome.tif", {"compression": "jpeg2000", "quality": 100}, 0),
    "hybrid": ("out.ome.tif", {"compression": "deflate", "layout": "hybrid"}, 0),
    "zarr-0.4": ("out.ome.zarr", {"zarr_version": "0.4"}, 0),
    "zarr-0.5": ("out.ome.zarr", {"zarr_version": "0.5"}, 0),
}
"""Name, options, and how far the mean of a level may be off."""


@given(
    width=st.integers(1, 3000),
    height=st.integers(1, 3000),
    tile=st.sampled_from([16, 48, 256, 512]),
    kind=st.sampled_from(list(FORMATS)),
    blank=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_any_size_in_any_order(
    width: int,
    height: int,
    tile: int,
    kind: str,
    blank: float,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Levels read back are the 2x2 means of what was given, tile by tile, some of it blank."""
    if tile < 256:
        width, height = width % 700 + 1, height % 700 + 1
    name, options, limit = FORMATS[kind]
    spec = spec_of(width, height, tile=tile, **options)
    pixels = picture(width, height)
    rng = np.random.default_rng(seed)
    out = tmp_path_factory.mktemp("any") / name
    with open_writer(out, spec, threads=2) as writer:
        for i in rng.permutation(len(all_tiles(spec))):
            row, col = all_tiles(spec)[i]
            if rng.random() < blank:
                tile_of(pixels, spec, row, col)[...] = 255
                writer.write_blank(row, col)
            else:
                writer.write_tile(row, col, tile_of(pixels, spec, row, col))
        writer.finish()
    wanted = reference_levels(pixels, len(spec.levels))
    assert spec.levels == tuple((level.shape[1], level.shape[0]) for level in wanted)
    for got, expected in zip(decode(out), wanted, strict=True):
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).mean() <= limit


@pytest.mark.parametrize("samples", [1, 3])
def test_halving_is_the_kernel(samples: int) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((64, 38), (2, 2), (2, 1022), (512, 512)):
        pixels = rng.integers(0, 256, (height, width, samples), dtype=np.uint8)
        assert np.array_equal(halve(pixels), block_means(pixels, 2))
    view = np.broadcast_to(pixels[:2], pixels[:2].shape)[::-1]
    assert np.array_equal(halve(view), block_means(view, 2))


def test_halving_rounds_every_box_half_up() -> None:
    """All differences and low bits of four neighbours: the means of means lose none."""
    low = np.stack(np.meshgrid(*[np.arange(12)] * 4, indexing="ij"), -1).reshape(-1, 2, 2)
    for values in (low, 255 - low, np.where(low % 3, low, 255 - low)):
        image = values.transpose(1, 0, 2).reshape(2, -1, 1).astype(np.uint8)
        assert np.array_equal(halve(image)[0, :, 0], (values.sum(axis=(1, 2)) + 2) // 4)


def test_decoded_pixels_do_not_depend_on_threads_or_order(tmp_path: Path) -> None:
    pixels, spec = picture(500, 400), spec_of(500, 400)
    first = decode(write(tmp_path / "a.ome.tif", spec, pixels, threads=1))
    with open_writer(tmp_path / "b.ome.tif", spec, threads=3) as writer:
        feed(writer, pixels, reversed(all_tiles(spec)))
        writer.finish()
    for a, b in zip(first, decode(tmp_path / "b.ome.tif"), strict=True):
        assert np.array_equal(a, b)


def test_one_thread_in_order_gives_the_same_bytes(tmp_path: Path) -> None:
    pixels, spec = picture(500, 400), spec_of(500, 400)
    a = write(tmp_path / "a.ome.tif", spec, pixels).read_bytes()
    assert a == write(tmp_path / "b.ome.tif", spec, pixels).read_bytes()


def test_blank_tiles_share_one_encoded_tile(tmp_path: Path) -> None:
    out, spec = tmp_path / "out.ome.tif", spec_of(640, 640, background=(244, 240, 243))
    with open_writer(out, spec) as writer:
        for row, col in all_tiles(spec):
            writer.write_blank(row, col)
        writer.finish()
    with tifffile.TiffFile(out) as file:
        stored = [
            offset for level in file.series[0].levels for offset in level.pages[0].dataoffsets
        ]
        assert len(set(stored)) == 1
        assert min(stored) > 0
    for level in decode(out):
        assert np.abs(level.astype(int) - (244, 240, 243)).max() <= 2


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_two_hundred_thousand_pixels_a_side(compression: str, tmp_path: Path) -> None:
    """40 gigapixels of glass with tissue in two corners: small, and right in two readers."""
    side = 200_000
    spec = spec_of(side, side, tile=512, compression=compression)
    assert spec.grid(0) == (391, 391)
    assert spec.levels[-1] == (391, 391)
    out, tissue = tmp_path / "out.ome.tif", picture(512, 512)
    corner = tissue[: side % 512, : side % 512]
    with open_writer(out, spec, threads=2, fingerprint="run") as writer:
        for row, col in all_tiles(spec):
            if (row, col) == (0, 0):
                writer.write_tile(row, col, tissue)
            elif (row, col) == (390, 390):
                writer.write_tile(row, col, corner)
            else:
                writer.write_blank(row, col)
        writer.finish()
    assert out.stat().st_size < 8_000_000
    limit = 4 if compression == "jpeg" else 0
    with open_slide(out) as slide, openslide.OpenSlide(out) as other:
        assert (slide.width, slide.height, len(slide.levels)) == (side, side, 10)
        assert other.dimensions == (side, side)
        for x, y, wanted in (
            (0, 0, tissue),
            (side - corner.shape[1], side - corner.shape[0], corner),
            (123_000, 99_000, np.full((300, 300, 3), 255, np.uint8)),
        ):
            height, width = wanted.shape[:2]
            ours = slide.read(0, x, y, width, height).astype(int)
            theirs = np.asarray(other.read_region((x, y), 0, (width, height)))[..., :3]
            assert np.abs(ours - wanted).mean() <= limit
            assert np.abs(theirs.astype(int) - wanted).mean() <= limit
        top = slide.read(9, 0, 0, 391, 391)
        assert top[200, 200].tolist() == [255] * 3
        assert top[0, 0].max() < 255


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"width": 0}, "width 0"),
        ({"mpp": float("nan")}, "mpp nan"),
        ({"magnification": -1}, "magnification -1"),
        ({"tile": 100}, "tile 100"),
        ({"quality": 0}, "quality 0"),
        ({"compression": "gif"}, "compression gif"),
        ({"subsampling": "411"}, "subsampling 411"),
        ({"layout": "flat"}, "layout flat"),
        ({"zarr_version": "0.3"}, "zarr_version 0.3"),
        ({"background": (0, 0, 256)}, "background"),
        ({"associated": {"photo": np.zeros((2, 2, 3), np.uint8)}}, "photo"),
        ({"associated": {"label": np.zeros((2, 2), np.uint8)}}, "label"),
    ],
)
def test_a_wrong_spec_names_the_option(options: dict[str, object], match: str) -> None:
    settings = {"width": 10, "height": 10, "mpp": 0.25, "magnification": 40, **options}
    with pytest.raises(UsageError, match=match):
        PyramidSpec(**settings)  # type: ignore[arg-type]


def test_wrong_tiles_are_refused(tmp_path: Path) -> None:
    spec, pixels = spec_of(), picture(300, 200)
    with open_writer(tmp_path / "out.ome.tif", spec) as writer:
        writer.write_tile(0, 0, tile_of(pixels, spec, 0, 0))
        assert writer.done(0, 0)
        assert not writer.done(0, 1)
        with pytest.raises(UsageError, match="given before"):
            writer.write_blank(0, 0)
        with pytest.raises(UsageError, match="outside the grid"):
            writer.write_blank(0, 10)
        with pytest.raises(UsageError, match="give uint8"):
            writer.write_tile(6, 9, tile_of(pixels, spec, 0, 1))
        with pytest.raises(UsageError, match="give uint8"):
            writer.write_tile(0, 1, tile_of(pixels, spec, 0, 1).astype(np.float32))
    assert list(tmp_path.iterdir()) == []


def test_where_the_output_may_not_be(tmp_path: Path) -> None:
    spec = spec_of()
    with pytest.raises(UsageError, match=r"\.ome\.tif.*\.ome\.zarr"):
        open_writer(tmp_path / "out.png", spec)
    with pytest.raises(UsageError, match=r"\.ome\.tif"):
        open_writer(tmp_path / ".ome.tif", spec)
    with pytest.raises(OutputError, match="does not exist"):
        open_writer(tmp_path / "missing" / "out.ome.tif", spec)
    (tmp_path / "there.ome.tif").write_bytes(b"precious")
    with pytest.raises(ExistsError, match="give overwrite"):
        open_writer(tmp_path / "there.ome.tif", spec)
    assert (tmp_path / "there.ome.tif").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize("fingerprint", ["", "run"])
def test_a_folder_that_takes_no_files(
    reason: int, name: str, fingerprint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only disk, or a folder of someone else's; root may write anywhere but on the first."""

    def refuse(path: object, *rest: object, **more: object) -> int:
        raise OSError(reason, os.strerror(reason), str(path))

    with monkeypatch.context() as patch:
        for function in ("open", "mkdir"):
            patch.setattr(os, function, refuse)
        with pytest.raises(OutputError, match=rf"{name}.*cannot be written.*choose a folder"):
            open_writer(tmp_path / name, spec_of(), fingerprint=fingerprint)
    assert list(tmp_path.iterdir()) == []


def test_an_overwritten_output_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    out, spec, pixels = tmp_path / "out.ome.tif", spec_of(), picture(300, 200)
    before = write(out, spec, picture(300, 200, seed=5)).read_bytes()
    with open_writer(out, spec, overwrite=True) as writer:
        writer.write_tile(0, 0, tile_of(pixels, spec, 0, 0))
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_finish_without_all_tiles_leaves_nothing(tmp_path: Path) -> None:
    with open_writer(tmp_path / "out.ome.tif", spec_of()) as writer:
        writer.write_blank(0, 0)
        with pytest.raises(OutputError, match="69 of 70 tiles"):
            writer.finish()
        with pytest.raises(UsageError, match="closed"):
            writer.write_blank(0, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_worker_surfaces_and_unwinds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EncoderError(Exception):
        pass

    calls = []

    def encode(self: tiff.TiffSink, pixels: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) > 5:
            raise EncoderError
        return b"x"

    monkeypatch.setattr(tiff.TiffSink, "encode", encode)
    pixels = picture(300, 200)
    started = time.monotonic()
    with pytest.raises(EncoderError):
        write(tmp_path / "out.ome.tif", spec_of(), pixels, threads=2)
    assert time.monotonic() - started < 10
    assert list(tmp_path.iterdir()) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("wsisr-encode")]


def test_back_pressure_bounds_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, gate = tiff.TiffSink.encode, threading.Event()

    def slow(self: tiff.TiffSink, pixels: np.ndarray) -> bytes:
        gate.wait(10)
        return encode(self, pixels)

    monkeypatch.setattr(tiff.TiffSink, "encode", slow)
    spec, pixels, given_tiles = spec_of(), picture(300, 200), []
    with open_writer(tmp_path / "out.ome.tif", spec, threads=2) as writer:

        def produce() -> None:
            for row, col in all_tiles(spec):
                writer.write_tile(row, col, tile_of(pixels, spec, row, col))
                given_tiles.append((row, col))

        producer = threading.Thread(target=produce)
        producer.start()
        time.sleep(0.3)
        held = len(given_tiles)
        gate.set()
        producer.join()
        writer.finish()
    assert held == 6


class FullDisk:
    """Stands in for os.pwrite on a disk that takes `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._pwrite = os.pwrite

    def __call__(self, fd: int, data: bytes, offset: int) -> int:
        if self.room < len(data):
            # as a real disk: part of it still fits
            self._pwrite(fd, data[: self.room], offset)
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(data)
        return self._pwrite(fd, data, offset)


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize("room", [0, 100, 30_000, 90_000])
@pytest.mark.parametrize("fingerprint", ["", "run"])
def test_a_full_disk_stops_cleanly_and_leaves_nothing(
    name: str, fingerprint: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(600, 400)
    monkeypatch.setattr(files.os, "pwrite", FullDisk(room))
    with pytest.raises(OutputError, match="disk is full"):
        write(tmp_path / name, spec_of(600, 400), pixels, threads=2, fingerprint=fingerprint)
    kept = {name + end for end in (".partial", ".journal", ".pieces")}
    left = {path.name for path in tmp_path.iterdir()}
    # with a journal, either nothing was stored yet or a later run can go on
    assert left in (set(), kept) if fingerprint else left == set()


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize("room", [2_000, 90_000])
def test_a_full_disk_is_resumed_from_when_there_is_room(
    name: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, spec = picture(400, 300), spec_of(400, 300)
    out = tmp_path / name
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "pwrite", FullDisk(room))
        with pytest.raises(OutputError, match="disk is full"):
            write(out, spec, pixels, threads=2, fingerprint="run")
        assert not out.exists()
    write(out, spec, pixels, threads=2, fingerprint="run")
    (tmp_path / "whole").mkdir()
    whole = decode(write(tmp_path / "whole" / name, spec, pixels))
    for got, wanted in zip(decode(out), whole, strict=True):
        assert np.array_equal(got, wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "whole"])


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_final_provenance_takes_the_place_of_the_specs(
    name: str, version: str, tmp_path: Path
) -> None:
    """The journal keeps what the run began with, so that a resume is not concerned."""
    spec, pixels = spec_of(provenance={"model": "tiny"}, zarr_version=version), picture(300, 200)
    out = tmp_path / name
    with open_writer(out, spec, fingerprint="run") as writer:
        feed(writer, pixels, all_tiles(spec)[:9])
    header = read_journal(journal_path(out))
    assert header is not None
    assert header[0]["made_by"] == {"model": "tiny"}
    with open_writer(out, spec, fingerprint="run") as writer:
        assert writer.done(0, 8)
        feed(writer, pixels)
        writer.finish({"model": "tiny", "damage": ["level 0"]})
    assert spec.provenance == {"model": "tiny"}
    if out.is_file():
        assert '"damage": ["level 0"]' in (tifffile.TiffFile(out).ome_metadata or "")
    else:
        group = zarr.open_group(out, mode="r")
        assert group.attrs["wsisr"]["damage"] == ["level 0"]
        assert "damage" in (out / "OME" / "METADATA.ome.xml").read_text(encoding="utf-8")
