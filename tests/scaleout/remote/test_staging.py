"""Slides behind URLs become files of this machine, once, whole, and within the bound."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest

from tests.processes import CONTEXT
from tests.scaleout.remote.conftest import forget_drivers
from tests.scaleout.remote.server import FileServer
from wsisr.errors import OptionError, OutputError, SlideError, UsageError
from wsisr.scaleout.remote import Cache, Stager, download, open_cache, staged
from wsisr.scaleout.remote.listing import find_slide

SIGNED = "?X-Amz-Signature=SECRET&Expires=9"


def data(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def copies(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.slides.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BLOCK", 1 << 16)


def test_paths_and_file_urls_are_given_as_they_are(tmp_path: Path, cache: Cache) -> None:
    for source in (tmp_path / "a b.svs", str(tmp_path / "a b.svs"), f"file://{tmp_path}/a%20b.svs"):
        with staged(source, cache) as path:
            assert path == tmp_path / "a b.svs"
    assert copies(cache) == []


def test_a_slide_is_copied_once(web: FileServer, cache: Cache) -> None:
    wanted = data(500_000)
    url = web.put("a.svs", wanted)
    for _ in range(2):
        with staged(url, cache) as path:
            assert (path.name, path.read_bytes()) == ("a.svs", wanted)
    assert web.sent == len(wanted)


def test_dropped_connections_go_on_where_they_broke_off(web: FileServer, cache: Cache) -> None:
    wanted = data(1_000_000)
    url = web.put("a.svs", wanted)
    web.drops = 6
    with staged(url, cache) as path:
        assert path.read_bytes() == wanted
    assert web.sent < 1.5 * len(wanted)


def test_a_body_that_stays_truncated_is_an_error(web: FileServer, cache: Cache) -> None:
    url = web.put("a.svs", data(200_000))
    web.drops = 10**6
    with pytest.raises(SlideError, match=r"a\.svs: the connection fails"), staged(url, cache):
        pass
    web.drops = 0
    with staged(url, cache) as path:
        assert path.read_bytes() == data(200_000)


def test_a_server_without_ranges_is_read_whole(web: FileServer, cache: Cache) -> None:
    url = web.put("a.svs", data(300_000))
    web.ranges = False
    with staged(url, cache) as path:
        assert path.read_bytes() == data(300_000)


def test_a_changed_object_is_copied_anew(web: FileServer, cache: Cache) -> None:
    for seed in (0, 1):
        url = web.put("a.svs", data(100_000, seed))
        with staged(url, cache) as path:
            assert path.read_bytes() == data(100_000, seed)


def test_a_change_while_copying_is_noticed(
    web: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsisr.scaleout.remote import staging

    url = web.put("a.svs", data(100_000))
    copy = staging.download

    def change(*arguments: object) -> None:
        copy(*arguments)  # type: ignore[arg-type]
        web.put("a.svs", data(100_000, 1))

    monkeypatch.setattr(staging, "download", change)
    with staged(url, cache) as path:
        assert path.read_bytes() == data(100_000, 1)


@pytest.mark.parametrize(("status", "said"), [(404, "does not exist"), (403, "refused")])
def test_refusals_are_told_without_the_signature(
    status: int, said: str, web: FileServer, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    url = web.put("a.svs", data(10)) + SIGNED
    web.status = status
    with pytest.raises(SlideError, match=said) as caught, staged(url, cache):
        pass
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "SECRET" not in str(caught.value) + caplog.text


def test_a_new_signature_names_the_same_copy(web: FileServer, cache: Cache) -> None:
    url = web.put("a.svs", data(100_000))
    for signature in ("?X-Amz-Signature=A", "?X-Amz-Signature=B"):
        with staged(url + signature, cache) as path:
            assert "Amz" not in str(path)
    assert web.sent == 100_000


def test_the_longest_unused_go_and_those_in_use_stay(web: FileServer, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", 250_000 / 1e9)
    urls = [web.put(f"{name}.svs", data(100_000)) for name in "abcd"]
    with staged(urls[0], cache):
        for url in urls[1:]:
            with staged(url, cache):
                pass
        assert copies(cache) == ["a.svs", "d.svs"]
        with (
            staged(urls[1], cache),
            pytest.raises(OptionError, match="beside the slides in use") as caught,
            staged(urls[2], cache),
        ):
            pass
    assert caught.value.option == "cache_gb"
    with (
        pytest.raises(OptionError, match="the slide has"),
        staged(web.put("e", data(300_000)), cache),
    ):
        pass
    assert copies(cache) == ["a.svs", "b.svs"]


def test_a_dead_owner_keeps_nothing(web: FileServer, tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "cache", 150_000 / 1e9)
    url = web.put("a.svs", data(100_000))
    process = CONTEXT.Process(target=_hold, args=(url, cache, tmp_path / "holds"))
    process.start()
    wait_for((tmp_path / "holds").exists)
    other = web.put("b.svs", data(100_000))
    with pytest.raises(OptionError), staged(other, cache):
        pass
    process.kill()
    process.join()
    with staged(other, cache):
        assert copies(cache) == ["b.svs"]


def _hold(url: str, cache: Cache, mark: Path) -> None:
    with staged(url, cache):
        mark.touch()
        time.sleep(60)


def test_two_processes_share_a_copy(web: FileServer, cache: Cache, tmp_path: Path) -> None:
    url = web.put("a.svs", data(1_000_000))
    web.pause_s = 0.002
    arguments = [(url, cache, tmp_path / name) for name in ("one", "two")]
    processes = [CONTEXT.Process(target=_take, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [(tmp_path / name).read_bytes() for name in ("one", "two")] == [data(1_000_000)] * 2
    assert web.sent == 1_000_000


def _take(url: str, cache: Cache, out: Path) -> None:
    with staged(url, cache) as path:
        out.write_bytes(path.read_bytes())


def test_a_killed_copy_goes_on(web: FileServer, cache: Cache, tmp_path: Path) -> None:
    url = web.put("a.svs", data(4_000_000))
    web.pause_s = 0.01
    process = CONTEXT.Process(target=_take_small, args=(url, cache, tmp_path / "one"))
    process.start()
    wait_for(lambda: any(p.stat().st_size > 500_000 for p in cache.slides.glob("*.partial/*")))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    web.pause_s, web.sent = 0, 0
    with staged(url, cache) as path:
        assert path.read_bytes() == data(4_000_000)
    assert web.sent < 3_700_000


def _take_small(url: str, cache: Cache, out: Path) -> None:
    download.BLOCK = 1 << 16
    _take(url, cache, out)


def wait_for(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_next_slide_is_copied_ahead(web: FileServer, cache: Cache) -> None:
    urls = [web.put(f"{name}.svs", data(100_000)) for name in "ab"]
    with Stager(cache) as stager:
        stager.prefetch(urls[1])
        stager.prefetch(web.url("missing.svs"))
        stager.prefetch(cache.folder)
        wait_for(lambda: copies(cache) == ["b.svs"] and web.sent == 100_000)
        web.status = None
        with stager.staged(urls[1]) as path:
            assert path.name == "b.svs"
        with (
            pytest.raises(SlideError, match="does not exist"),
            stager.staged(web.url("missing.svs")),
        ):
            pass
    assert web.sent == 100_000


def test_copying_ahead_stops_at_the_end(web: FileServer, cache: Cache) -> None:
    url = web.put("a.svs", data(10_000_000))
    web.pause_s = 0.05
    with Stager(cache) as stager:
        stager.prefetch(url)
        wait_for(lambda: web.sent)
    assert web.sent < 5_000_000
    assert not any(cache.state.glob("*.users/*"))


def test_a_full_disk_is_one_line(
    web: FileServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = web.put("a.svs", data(100_000))
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"disk is full.*cache"), staged(url, cache):
        pass


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nope://a/b.svs", "not known"),
        ("https://host/", "names no file"),
        ("https://user:SECRET@host/..?SECRET", "names no file"),
        ("https://host/slides/", "cannot be listed"),
    ],
)
def test_urls_that_cannot_be_used(url: str, said: str, cache: Cache) -> None:
    with pytest.raises((UsageError, SlideError), match=said) as caught, staged(url, cache):
        pass
    assert "SECRET" not in str(caught.value)


def test_a_missing_driver_names_the_extra(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with (
        pytest.raises(UsageError, match=re.escape("pip install 'wsisr[s3]'")),
        staged("s3://b/a.svs", cache),
    ):
        pass


def test_slides_of_several_files(cache: Cache) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("s/m.mrxs", "s/m/Slidedat.ini", "s/m/Data0.dat", "s/other.mrxs", "s/d/1.dcm"):
        memory.pipe(f"/{name}", name.encode())
    with staged("memory://s/m.mrxs", cache) as path:
        found = sorted(str(p.relative_to(path.parent)) for p in path.parent.rglob("*.*"))
        assert found == ["m.mrxs", "m/Data0.dat", "m/Slidedat.ini"]
    with staged("memory://s/d/", cache) as path:
        assert [p.name for p in path.iterdir()] == ["1.dcm"]


def test_objects_of_s3_are_checked_by_their_md5(
    bucket: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, wanted = f"s3://{bucket}/in/a.svs", data(300_000)
    boto3.client("s3").put_object(Bucket=bucket, Key="in/a.svs", Body=wanted)
    read = download._read
    monkeypatch.setattr(
        download, "_read", lambda *a: ([bytes(len(b)) for b in read(*a)[0]], read(*a)[1])
    )
    with pytest.raises(SlideError, match="MD5"), staged(url, cache):
        pass
    monkeypatch.setattr(download, "_read", read)
    with staged(url, cache) as path:
        assert path.read_bytes() == wanted


def test_s3_without_credentials_says_what_to_do(
    bucket: str, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_drivers()
    with (
        pytest.raises(SlideError, match=r"s3://.*no credentials were found; set AWS_ACCESS_KEY_ID"),
        staged(f"s3://{bucket}/a.svs", cache),
    ):
        pass
    forget_drivers()


def test_a_missing_bucket_or_object(bucket: str, cache: Cache) -> None:
    for url in (f"s3://{bucket}/a.svs", "s3://no-such-bucket/a.svs", f"s3://{bucket}/x.zarr"):
        with pytest.raises(SlideError, match="does not exist"):
            find_slide(url)
