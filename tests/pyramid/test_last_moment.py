"""The end of a run: renames that fail, kills beside them, and what the disk holds then."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.pyramid import child
from tests.pyramid.support import all_tiles, decode, feed, picture
from tests.pyramid.test_resume import (
    KINDS,
    complete,
    leftovers,
    partial_of,
    small,
    wait_for_records,
    write_part,
)
from wsisr.errors import ExistsError, OutputError, WsisrError
from wsisr.files import commit_folder
from wsisr.pyramid import PyramidSpec, open_writer
from wsisr.pyramid.journal import Journal
from wsisr.pyramid.records import journal_path, pieces_path

PIXELS = picture(300, 200)


def spec_of(kind: str) -> PyramidSpec:
    return small(zarr_version=KINDS[kind][1])


def leave_all(self: Journal) -> None:
    """What a kill leaves that comes before the first file is removed."""
    with self._lock:
        self.stop()
        self._close_files()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", ["journal and pieces", "journal"])
def test_a_run_killed_behind_its_rename_is_finished(
    kind: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spec = tmp_path / KINDS[kind][0], spec_of(kind)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", leave_all)
        complete(out, spec, PIXELS)
    assert journal_path(out).exists()
    if left == "journal":
        pieces_path(out).unlink()
    whole = decode(out)
    assert complete(out, spec, PIXELS) == 0
    assert leftovers(out) == []
    for got, wanted in zip(decode(out), whole, strict=True):
        assert np.array_equal(got, wanted)
    with pytest.raises(ExistsError, match="exists"):
        complete(out, spec, PIXELS)


@pytest.mark.parametrize("kind", KINDS)
def test_another_output_is_not_taken_for_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older output under the name, and the partial one lost: the journal proves nothing."""
    out, spec = tmp_path / KINDS[kind][0], spec_of(kind)
    complete(out, spec, picture(300, 200, seed=5))
    older = decode(out)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "discard", leave_all)
        aside = tmp_path / "aside"
        out.rename(aside)
        complete(out, spec, PIXELS)
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    aside.rename(out)
    with pytest.raises(ExistsError, match="exists"):
        open_writer(out, spec, fingerprint=child.FINGERPRINT)
    assert np.array_equal(decode(out)[0], older[0])


def failing(name: str, number: int | None, where: Callable[[str], bool]) -> Callable[..., object]:
    call = getattr(os, name)

    def refuse(*args: object, **kwargs: object) -> object:
        if where(str(args[0])):
            raise KeyboardInterrupt if number is None else OSError(number, os.strerror(number))
        return call(*args, **kwargs)

    return refuse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, None])
def test_a_rename_that_fails_is_an_error_and_a_resume_ends_well(
    kind: str, error: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, spec = tmp_path / KINDS[kind][0], spec_of(kind)

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            refused = failing(name, error, lambda place: place == str(partial_of(out)))
            patch.setattr(os, name, refused)
        with pytest.raises(OutputError if error else KeyboardInterrupt):
            complete(out, spec, PIXELS)
    assert not out.exists()
    assert complete(out, spec, PIXELS) == 0
    assert leftovers(out) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_goes_while_it_is_written_to(kind: str, tmp_path: Path) -> None:
    out, spec = tmp_path / "sub" / KINDS[kind][0], spec_of(kind)
    out.parent.mkdir()
    writer = open_writer(out, spec, fingerprint="a")
    feed(writer, PIXELS, all_tiles(spec)[:-1])
    out.parent.rename(tmp_path / "gone")

    def go_on() -> None:
        feed(writer, PIXELS)
        writer.finish()

    with writer, pytest.raises(OutputError, match="does not exist"):
        go_on()


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_the_place_of_a_file_is_told_before_the_run(kind: str, tmp_path: Path) -> None:
    out = tmp_path / KINDS[kind][0]
    for overwrite, told in ((False, "exists"), (True, "another format|not made by wsisr")):
        if kind == "tiff":
            out.mkdir(exist_ok=True)
        else:
            out.touch()
        with pytest.raises(WsisrError, match=told):
            open_writer(out, spec_of(kind), fingerprint="a", overwrite=overwrite)


def test_a_folder_that_is_replaced_comes_back_where_the_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing("rename", errno.EIO, lambda place: "new" in place))
        with pytest.raises(OutputError):
            commit_folder(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "out").exists()
    commit_folder(tmp_path / "new", tmp_path / "out")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/new"]


@pytest.mark.parametrize("kind", ["0.4", "0.5"])
def test_a_resumed_run_has_the_disk_hold_every_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed run left in the page cache is flushed by the one that goes on."""
    out, spec = tmp_path / "a" / KINDS[kind][0], spec_of(kind)
    killed = tmp_path / "b" / out.name
    out.parent.mkdir()
    with open_writer(out, spec, threads=2, fingerprint=child.FINGERPRINT) as writer:
        feed(writer, PIXELS, all_tiles(spec)[:40])
        wait_for_records(out, 40)
        shutil.copytree(out.parent, killed.parent)
        writer.abort(keep=False)
    synced: set[str] = set()
    fsync = os.fsync

    def note(fd: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    complete(killed, spec, PIXELS)
    everything = [killed, *killed.rglob("*")]
    partial = str(partial_of(killed))
    lost = [p for p in everything if partial + str(p).removeprefix(str(killed)) not in synced]
    assert not lost
    assert str(killed.parent) in synced


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_journal_that_cannot_be_cut_is_an_error(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.ome.tif"
    write_part(out, small(), PIXELS, 30)
    with monkeypatch.context() as patch:

        def refuse(fd: int, size: int) -> None:
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OutputError), suppress(KeyboardInterrupt):
            open_writer(out, small(), fingerprint=child.FINGERPRINT)
    assert complete(out, small(), PIXELS) == len(all_tiles(small())) - 30
