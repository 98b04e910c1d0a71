"""Interruptions of every kind end in the pixels of a run without any."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pyramid import child
from tests.pyramid.support import all_tiles, decode, feed, picture
from wsisr.errors import OutputError, UsageError
from wsisr.pyramid import PyramidSpec, open_writer
from wsisr.pyramid.records import (
    RECORD_SIZE,
    Record,
    journal_path,
    pack_record,
    pieces_path,
    read_journal,
)

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "tiff": ("out.ome.tif", "0.4"),
    "0.4": ("out.ome.zarr", "0.4"),
    "0.5": ("out.ome.zarr", "0.5"),
}


class InterruptedRunError(Exception):
    pass


def partial_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def leftovers(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path != out)


def write_part(out: Path, spec: PyramidSpec, pixels: np.ndarray, count: int, seed: int = 0) -> None:
    """Write `count` tiles in a random order, then fail."""
    order = np.random.default_rng(seed).permutation(len(all_tiles(spec)))[:count]
    with (
        suppress(InterruptedRunError),
        open_writer(out, spec, threads=2, fingerprint=child.FINGERPRINT) as writer,
    ):
        feed(writer, pixels, [all_tiles(spec)[i] for i in order])
        raise InterruptedRunError


def complete(out: Path, spec: PyramidSpec, pixels: np.ndarray) -> int:
    """Go on to the end; how many tiles were given."""
    with open_writer(out, spec, threads=2, fingerprint=child.FINGERPRINT) as writer:
        count = feed(writer, pixels)
        writer.finish()
    return count


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """The decoded levels of uninterrupted runs of the child, by kind."""
    folder = tmp_path_factory.mktemp("whole")
    found = {}
    for kind, (name, version) in KINDS.items():
        out = folder / kind / name
        out.parent.mkdir()
        child.main(str(out), version, "0")
        found[kind] = decode(out)
    return found


def kill_often(folder: Path, kind: str, kills: int, wanted: list[np.ndarray]) -> None:
    """Kill the child again and again, tear tails in between, and compare what comes out."""
    rng = np.random.default_rng(kills)
    name, version = KINDS[kind]
    left, round_ = kills, 0
    while left:
        out = folder / str(round_) / name
        out.parent.mkdir()
        round_ += 1
        finished = False
        while not finished:
            command = [sys.executable, "-m", "tests.pyramid.child", str(out), version, str(left)]
            with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.readline()
                if left:
                    time.sleep(float(rng.uniform(0, 0.25)))
                    process.kill()
                finished = process.wait() == 0
            if not finished:
                left -= 1
                # an output under its own name is complete, whenever the kill came
                finished = out.exists()
            if not finished:
                tear(out, rng)
        for got, whole in zip(decode(out), wanted, strict=True):
            assert np.array_equal(got, whole)
        assert partial_of(out).name not in leftovers(out)


def tear(out: Path, rng: np.random.Generator) -> None:
    """Some of what a power loss may do: journal cut or garbled at its end, data lost."""
    journal = journal_path(out)
    data = bytearray(journal.read_bytes())
    kind = rng.integers(4)
    if kind == 1:
        journal.write_bytes(data[: len(data) - int(rng.integers(1, 200))])
    elif kind == 2:
        journal.write_bytes(bytes(data) + rng.bytes(int(rng.integers(1, 200))))
    elif kind == 3:
        partial = partial_of(out)
        files = [partial] if partial.is_file() else [p for p in partial.rglob("*") if p.is_file()]
        if files:
            lost = sorted(files)[int(rng.integers(len(files)))]
            size = lost.stat().st_size
            with lost.open("r+b") as file:
                file.seek(max(0, size - 20_000))
                file.write(bytes(min(size, 20_000)))


@pytest.mark.parametrize("kind", KINDS)
def test_three_kills(kind: str, tmp_path: Path, wanted: dict[str, list[np.ndarray]]) -> None:
    kill_often(tmp_path, kind, 3, wanted[kind])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thirty_kills(kind: str, tmp_path: Path, wanted: dict[str, list[np.ndarray]]) -> None:
    kill_often(tmp_path, kind, 30, wanted[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_only_tiles_in_flight_are_done_again(kind: str, tmp_path: Path) -> None:
    name, version = KINDS[kind]
    spec = PyramidSpec(1000, 700, 0.25, 40, tile=64, zarr_version=version)
    pixels = picture(1000, 700)
    out = tmp_path / name
    write_part(out, spec, pixels, 100)
    assert not out.exists()
    assert complete(out, spec, pixels) == len(all_tiles(spec)) - 100
    assert leftovers(out) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_after_a_burst_loses_nothing(kind: str, tmp_path: Path) -> None:
    """What the files hold while the writer waits for its next tile is what SIGKILL leaves."""
    name, version = KINDS[kind]
    spec = PyramidSpec(1000, 700, 0.25, 40, tile=64, zarr_version=version)
    pixels = picture(1000, 700)
    out, copy = tmp_path / "a" / name, tmp_path / "b" / name
    out.parent.mkdir()
    with open_writer(out, spec, threads=2, fingerprint=child.FINGERPRINT) as writer:
        feed(writer, pixels, all_tiles(spec)[:71])
        wait_for_records(out, 71)
        shutil.copytree(out.parent, copy.parent)
        writer.abort(keep=False)
    with open_writer(copy, spec, fingerprint=child.FINGERPRINT) as writer:
        assert [writer.done(*place) for place in all_tiles(spec)] == [i < 71 for i in range(176)]
        feed(writer, pixels)
        writer.finish()
    complete(out, spec, pixels)
    for got, whole in zip(decode(copy), decode(out), strict=True):
        assert np.array_equal(got, whole)


def wait_for_records(out: Path, count: int) -> None:
    """Until the journal holds `count` tiles of level 0."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = read_journal(journal_path(out))
        if found and len({r.address for r in found.records if r.address[0] == 0}) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"{count} tiles were not recorded within a minute")


def small(**options: object) -> PyramidSpec:
    return PyramidSpec(300, 200, 0.25, 40, tile=32, **options)  # type: ignore[arg-type]


@given(cut=st.integers(0, 3000), count=st.integers(1, 69), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_a_journal_cut_anywhere_is_gone_on_from(
    cut: int, count: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    pixels = picture(300, 200)
    whole, out = folder / "whole.ome.tif", folder / "out.ome.tif"
    complete(whole, small(), pixels)
    write_part(out, small(), pixels, count, seed)
    data = journal_path(out).read_bytes()
    journal_path(out).write_bytes(data[: max(0, len(data) - cut)])
    complete(out, small(), pixels)
    for got, expected in zip(decode(out), decode(whole), strict=True):
        assert np.array_equal(got, expected)


def test_lost_pieces_are_made_again(tmp_path: Path) -> None:
    pixels = picture(300, 200)
    whole, out = tmp_path / "whole.ome.tif", tmp_path / "out.ome.tif"
    complete(whole, small(), pixels)
    write_part(out, small(), pixels, 60)
    kept = pieces_path(out)
    assert kept.stat().st_size > 0
    kept.write_bytes(bytes(kept.stat().st_size))
    assert complete(out, small(), pixels) > len(all_tiles(small())) - 60
    for got, expected in zip(decode(out), decode(whole), strict=True):
        assert np.array_equal(got, expected)


def test_another_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    pixels = picture(300, 200)
    write_part(out, small(), pixels, 10)
    with pytest.raises(UsageError, match="quality 90, now 80"):
        open_writer(out, small(quality=80), fingerprint=child.FINGERPRINT)
    with pytest.raises(UsageError, match="another input, model or settings"):
        open_writer(out, small(), fingerprint="something else")
    with pytest.raises(UsageError, match="unfinished run"):
        open_writer(out, small())
    made = {"input": {"sha256": "a"}, "seed": 0}
    other = tmp_path / "other.ome.tif"
    with (
        suppress(InterruptedRunError),
        open_writer(other, small(provenance=made), fingerprint="0") as writer,
    ):
        feed(writer, pixels, all_tiles(writer.spec)[:9])
        raise InterruptedRunError
    for change, reason in (
        ({**made, "seed": 1}, r"\(seed 0, now 1\)"),
        ({**made, "input": {"sha256": "b"}}, 'input.sha256 "a", now "b"'),
    ):
        with pytest.raises(UsageError, match=reason):
            open_writer(other, small(provenance=change), fingerprint="1")
    # a refusal harms nothing
    assert complete(out, small(), pixels) == len(all_tiles(small())) - 10


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": False}])
def test_an_unfinished_run_can_be_discarded(options: dict[str, bool], tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    pixels = picture(300, 200)
    write_part(out, small(), pixels, 10)
    with open_writer(out, small(quality=80), fingerprint="new", **options) as writer:
        assert feed(writer, pixels) == len(all_tiles(small()))
        writer.finish()
    assert leftovers(out) == []


def test_two_runs_cannot_write_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    with open_writer(out, small(), fingerprint="a") as writer:
        writer.write_blank(0, 0)
        for options in ({}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another run"):
                open_writer(out, small(), fingerprint="a", **options)
        writer.abort(keep=False)
    assert leftovers(out) == []


@pytest.mark.parametrize("damage", [b"", b"WSI", b"WSISRJ1\n\x10\0\0\0{"])
def test_a_journal_without_its_header_starts_anew(damage: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    pixels = picture(300, 200)
    write_part(out, small(), pixels, 10)
    journal_path(out).write_bytes(damage)
    assert complete(out, small(), pixels) == len(all_tiles(small()))


def test_something_else_in_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    write_part(out, small(), picture(300, 200), 10)
    for options in ({}, {"overwrite": True}):
        journal_path(out).write_bytes(b"not a journal")
        with pytest.raises(UsageError, match=r"journal.*not made by wsisr"):
            open_writer(out, small(), fingerprint=child.FINGERPRINT, **options)
        assert journal_path(out).read_bytes() == b"not a journal"


def header_bits(out: Path) -> int:
    found = read_journal(journal_path(out))
    assert found is not None
    return 8 * (found.length - len(found.records) * RECORD_SIZE)


def test_a_bit_flipped_in_the_header_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Magic, length, text or checksum: what the header was is proven by the rest of it."""
    out, pixels = tmp_path / "out.ome.tif", picture(300, 200)
    write_part(out, small(), pixels, 40)
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    bits = header_bits(out)
    for bit in [0, 63, 64, 80, 95, 96, *range(97, bits - 32, bits // 6), bits - 32, bits - 1]:
        for path in tmp_path.iterdir():
            path.unlink()
        for path, content in whole.items():
            path.write_bytes(content)
        data = bytearray(whole[journal_path(out)])
        data[bit // 8] ^= 1 << bit % 8
        journal_path(out).write_bytes(data)
        assert complete(out, small(), pixels) == len(all_tiles(small())) - 40, bit
        assert "repaired" in caplog.text
        caplog.clear()
        assert leftovers(out) == []
        out.unlink()


def test_a_header_damaged_beyond_repair_says_what_is_lost(tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    write_part(out, small(), picture(300, 200), 10)
    found = read_journal(journal_path(out))
    data = bytearray(journal_path(out).read_bytes())
    assert found is not None
    for place in (30, len(data) - len(found.records) * RECORD_SIZE - 2):
        data[place] ^= 4
    journal_path(out).write_bytes(data)
    with pytest.raises(OutputError, match=rf"the {len(found.records)} tiles.*give overwrite"):
        open_writer(out, small(), fingerprint=child.FINGERPRINT)
    assert journal_path(out).read_bytes() == data
    pixels = picture(300, 200)
    with open_writer(out, small(), fingerprint=child.FINGERPRINT, overwrite=True) as writer:
        assert feed(writer, pixels) == len(all_tiles(small()))
        writer.finish()


def test_blank_tiles_of_damage_are_not_taken_for_sound_ones(tmp_path: Path) -> None:
    out, pixels = tmp_path / "out.ome.tif", picture(300, 200)
    key = {"fingerprint": "a"}
    write_part_of(out, pixels, range(5), **key)
    # where nothing was damaged so far, damage may be left blank from now on
    write_part_of(out, pixels, range(5, 9), **key, blanks_damage=True)
    with pytest.raises(UsageError, match=r"blank tiles.*on_tile_error"):
        open_writer(out, small(), **key)
    with open_writer(out, small(), **key, blanks_damage=True) as writer:
        assert feed(writer, pixels) == len(all_tiles(small())) - 9
        writer.finish()


def write_part_of(out: Path, pixels: np.ndarray, tiles: range, **options: object) -> None:
    with suppress(InterruptedRunError), open_writer(out, small(), **options) as writer:  # type: ignore[arg-type]
        feed(writer, pixels, all_tiles(writer.spec)[tiles.start : tiles.stop])
        raise InterruptedRunError


numbers = st.integers(0, 2**32 - 1)


@given(
    records=st.lists(
        st.builds(
            Record,
            address=st.tuples(st.integers(0, 255), numbers, numbers)
            | st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 9)),
            state=st.integers(0, 255),
            offset=st.integers(0, 2**64 - 1),
            length=numbers,
            checksum=numbers,
            slot=st.integers(-(2**31), 2**31 - 1),
            piece_checksum=numbers,
        ),
        max_size=5,
    ),
    garbage=st.binary(max_size=100),
)
@settings(max_examples=25, deadline=None)
def test_no_journal_content_crashes_or_harms(
    records: list[Record], garbage: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Records with sound checksums and wild values count as lost tiles."""
    out = tmp_path_factory.mktemp("wild") / "out.ome.tif"
    pixels = picture(300, 200)
    write_part(out, small(), pixels, 5)
    with journal_path(out).open("ab") as file:
        for record in records:
            file.write(pack_record(record, file.tell()))
        file.write(garbage)
    complete(out, small(), pixels)
    assert decode(out)[0].shape == (200, 300, 3)


@given(
    kind=st.sampled_from(list(KINDS)),
    flips=st.lists(
        st.tuples(st.sampled_from(["journal", "pieces", "partial"]), st.integers(0), st.binary()),
        min_size=1,
        max_size=5,
    ),
    count=st.integers(1, 69),
)
@settings(max_examples=12, deadline=None)
def test_bytes_flipped_anywhere_are_found_out(
    kind: str,
    flips: list[tuple[str, int, bytes]],
    count: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Damage costs tiles, or the run is refused with the remedy: never wrong pixels."""
    folder, (name, version) = tmp_path_factory.mktemp("flips"), KINDS[kind]
    pixels, spec = picture(300, 200), small(zarr_version=version)
    out = folder / name
    write_part(out, spec, pixels, count)
    for what, position, data in flips:
        path = {"journal": journal_path, "pieces": pieces_path, "partial": partial_of}[what](out)
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        hit = files[position % len(files)]
        content = bytearray(hit.read_bytes())
        at = position % (len(content) + 1)
        content[at : at + len(data)] = data
        hit.write_bytes(content)
    refusal = None
    try:
        complete(out, spec, pixels)
    except (OutputError, UsageError) as error:
        refusal = str(error)
    if refusal is not None:
        assert "give overwrite" in refusal or "not made by wsisr" in refusal
        return
    (folder / "whole").mkdir()
    complete(folder / "whole" / name, spec, pixels)
    for got, whole in zip(decode(out), decode(folder / "whole" / name), strict=True):
        assert np.array_equal(got, whole)


@given(data=st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_reading_arbitrary_bytes_as_a_journal(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "x.journal"
    for prefix in (b"", b"WSISRJ1\n"):
        path.write_bytes(prefix + data)
        try:
            found = read_journal(path)
        except OutputError:
            continue
        assert found is None or found.length <= path.stat().st_size
