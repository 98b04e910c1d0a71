"""Atomic writes, positioned reads and writes, hashes and locks, with and without Linux' calls."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wsisr.errors import OutputError
from wsisr.files import (
    AppendFile,
    file_sha256,
    os_errors,
    read_at,
    remove,
    sync_folder,
    write_at,
    write_atomic,
)
from wsisr.locks import lock_file

ROOT = Path(__file__).resolve().parents[1]
POSITIONED = ("pread", "pwrite", "fdatasync")


@pytest.fixture(params=["positioned", "seek"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system's positioned reads and writes, and with those of other systems."""
    if request.param == "seek":
        for name in POSITIONED:
            monkeypatch.delattr(os, name, raising=False)


def test_a_file_is_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "größe 1.json"
    write_atomic(path, "µm\n")
    assert path.read_bytes() == "µm\n".encode()

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            write_atomic(path, b"new")
    assert path.read_bytes() == "µm\n".encode()
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_appended_file_grows_and_is_cut(calls: None, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    file = AppendFile(path, shown=path)
    assert [file.append(b"abc"), file.append(b"defg", align=8)] == [0, 8]
    file.overwrite(1, b"X")
    assert file.read(0, 100) == b"aXc\0\0\0\0\0defg"
    file.sync()
    file.cut(8)
    file.close()
    file.close()
    again = AppendFile(path, shown=path, size=None)
    assert again.end == 8
    again.close()
    assert AppendFile(path, shown=path, size=2).read(0, 9) == b"aX"


def test_threads_share_an_open_file(calls: None, tmp_path: Path) -> None:
    fd = os.open(tmp_path / "shared", os.O_RDWR | os.O_CREAT)
    wrong = []

    def work(number: int) -> None:
        block = bytes([number]) * 4096
        for i in range(50):
            offset = (i * 8 + number) * 4096
            write_at(fd, offset, block)
            if read_at(fd, offset, 4096) != block:
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_at(fd, 8 * 50 * 4096 - 10, 100) == bytes([7]) * 10
    os.close(fd)
    assert not wrong


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    file = AppendFile(tmp_path / "a", shown=tmp_path / "a")
    file.append(b"0123456789")
    assert file.read(0, 10) == b"0123456789"
    file.close()


def test_hashes_of_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "x").write_bytes(b"1")
    (folder / "a").write_bytes(b"2")
    assert file_sha256(folder / "a") == hashlib.sha256(b"2").hexdigest()
    assert file_sha256(folder) == hashlib.sha256(b"21").hexdigest()


@pytest.mark.parametrize(
    ("reason", "match"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "choose a folder"), (errno.EIO, "cannot be")],
)
def test_errors_say_what_to_do(reason: int, match: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=match), os_errors(tmp_path / "out"):
        raise OSError(reason, os.strerror(reason))


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("link", "missing"):
        remove(tmp_path / name)
    assert list(tmp_path.iterdir()) == [tmp_path / "kept"]


def test_folders_are_flushed_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_folder(tmp_path)
    monkeypatch.setattr("wsisr.files._POSIX", False)
    sync_folder(tmp_path / "not there")


HOLD = """
import sys
from pathlib import Path
from wsisr.locks import lock_file
with lock_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_at_once_and_ends_with_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    for end in ("let go", "kill"):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as owner:
            assert owner.stdout is not None
            assert owner.stdin is not None
            owner.stdout.readline()
            with pytest.raises(OutputError, match="another run"), lock_file(path):
                pass
            if end == "kill":
                owner.kill()
            else:
                owner.stdin.close()
            owner.wait()
        assert path.exists() == (end == "kill")
        with lock_file(path):
            pass
        assert not path.exists()


def test_locks_name_what_is_shown(tmp_path: Path) -> None:
    with (
        lock_file(tmp_path / "a.lock"),
        pytest.raises(OutputError, match=r"out\.tif is being"),
        lock_file(tmp_path / "a.lock", shown=tmp_path / "out.tif"),
    ):
        pass


def test_a_lock_held_by_many_in_turn_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """Removing the lock file must not let two in, one with the old file and one with a new."""
    holders, most = 0, []
    counting = threading.Lock()

    def work() -> None:
        nonlocal holders
        for _ in range(200):
            try:
                with lock_file(tmp_path / "a.lock"):
                    with counting:
                        holders += 1
                        most.append(holders)
                    with counting:
                        holders -= 1
            except OutputError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_has_one_by_presence(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """Lustre and FUSE as they are often mounted, and NFS without its lock service."""
    import fcntl

    def refuse(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "a.lock"
    for _ in range(2):
        with lock_file(path):
            assert path.exists()
            with pytest.raises(OutputError, match="another run"), lock_file(path):
                pass
        assert not path.exists()
    assert not recwarn.list
