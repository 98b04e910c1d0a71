"""OME-Zarr in object storage: the pixels of a local one, complete or absent, gone on with."""

from __future__ import annotations

import inspect
import json
import os
import signal
import time
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
import zarr
from PIL import Image

import wsisr
from tests.engine.support import tissue_like
from tests.processes import CONTEXT, Run
from tests.scaleout.remote.server import FileServer
from wsisr.errors import ExistsError, OptionError, OutputError, UsageError
from wsisr.pyramid import PyramidSpec, PyramidWriter, open_writer, stores
from wsisr.scaleout.remote import open_cache

OPTIONS = {"scale": 4, "model": "bicubic", "window": 128, "overlap": 32, "input_mpp": 1.0}
FLAGS = ("--scale", 4, "--model", "bicubic", "--window", 128, "--overlap", 32, "--input-mpp", 1)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray(tissue_like(160, 120)).save(path)
    return path


def upscale(source: str | Path, output: str | Path, cache: Path, **options: object) -> wsisr.Result:
    return wsisr.upscale(source, output, cache=cache, tile=128, **{**OPTIONS, **options})  # type: ignore[call-overload, no-any-return]


def content(place: str | Path) -> dict[str, np.ndarray]:
    group = zarr.open_group(str(place), mode="r")
    return {level: np.asarray(array) for level, array in group.arrays()}


def same(one: str | Path, other: str | Path) -> bool:
    first, second = content(one), content(other)
    assert len(first) == len(second) > 2
    return all(np.array_equal(first[level], second[level]) for level in first)


def names(bucket: str) -> list[str]:
    found = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return [each["Key"] for each in found]


def put_slide(slide: Path, bucket: str) -> str:
    boto3.client("s3").upload_file(str(slide), bucket, "slides/in.png")
    return f"s3://{bucket}/slides/in.png"


def test_remote_input_and_output_have_the_local_pixels(
    slide: Path, bucket: str, tmp_path: Path
) -> None:
    local = upscale(slide, tmp_path / "out.ome.zarr", tmp_path / "cache")
    url = f"s3://{bucket}/out.ome.zarr"
    remote = upscale(put_slide(slide, bucket), url, tmp_path / "cache")
    assert remote.output == url
    assert remote.sha256_pixels == local.sha256_pixels
    assert same(url, tmp_path / "out.ome.zarr")
    made_by = [zarr.open_group(str(p), mode="r").attrs["wsisr"] for p in (url, local.output)]
    assert made_by[0] == made_by[1]
    assert not any(path.is_file() for path in (tmp_path / "cache" / "outputs").rglob("*"))


def test_an_existing_output_is_refused_or_replaced(
    slide: Path, bucket: str, tmp_path: Path
) -> None:
    url = f"s3://{bucket}/out.ome.zarr"
    upscale(slide, url, tmp_path / "cache")
    with pytest.raises(ExistsError, match="exists; give overwrite"):
        upscale(slide, url, tmp_path / "cache")
    upscale(slide, url, tmp_path / "cache", scale=2, overwrite=True)
    assert zarr.open_group(url, mode="r")["0"].shape == (1, 3, 1, 240, 320)
    assert not [name for name in names(bucket) if name.startswith("out.ome.zarr/0/0/0/0/3/")]


def test_what_another_machine_began_is_refused(slide: Path, bucket: str, tmp_path: Path) -> None:
    boto3.client("s3").put_object(Bucket=bucket, Key="out.ome.zarr/0/0/0/0/0/0", Body=b"1")
    with pytest.raises(UsageError, match="unfinished run of another machine"):
        upscale(slide, f"s3://{bucket}/out.ome.zarr", tmp_path / "cache")


def test_a_writer_killed_in_mid_upload_goes_on(bucket: str, tmp_path: Path) -> None:
    url, journal = f"s3://{bucket}/out.ome.zarr", tmp_path / "out.ome.zarr"
    process = CONTEXT.Process(target=_write_slowly, args=(journal, url, dict(os.environ)))
    process.start()
    end = time.monotonic() + 60
    while len(names(bucket)) < 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.kill()
    process.join()
    assert "out.ome.zarr/.zattrs" not in names(bucket)
    # a chunk that was damaged or lost since is made again
    boto3.client("s3").put_object(Bucket=bucket, Key="out.ome.zarr/0/0/0/0/0/0", Body=b"1")
    boto3.client("s3").delete_object(Bucket=bucket, Key="out.ome.zarr/0/0/0/0/0/1")
    with open_writer(journal, SPEC, fingerprint="f", url=url) as writer:
        assert not writer.done(0, 0)
        assert not writer.done(0, 1)
        assert writer.done(0, 2)
        _write(writer, 0)
    pixels = tissue_like(SPEC.width, SPEC.height)
    assert np.array_equal(content(url)["0"][0, :, 0].transpose(1, 2, 0), pixels)


SPEC = PyramidSpec(256, 128, 0.25, 40, tile=64)


def _write_slowly(journal: Path, url: str, environment: dict[str, str]) -> None:
    # the server that this process is a fork of may be older than the fixture
    os.environ.update(environment)
    with open_writer(journal, SPEC, fingerprint="f", url=url) as writer:
        _write(writer, 0.2)


def _write(writer: PyramidWriter, pause_s: float) -> None:
    pixels = tissue_like(SPEC.width, SPEC.height)
    for row, col in np.ndindex(SPEC.grid(0)):
        if not writer.done(row, col):
            writer.write_tile(row, col, pixels[row * 64 :][:64, col * 64 :][:, :64])
            time.sleep(pause_s)
    writer.finish()


@pytest.mark.slow
def test_a_run_killed_in_mid_upload_goes_on(slide: Path, bucket: str, tmp_path: Path) -> None:
    Image.fromarray(tissue_like(320, 240)).save(slide)
    url, cache = f"s3://{bucket}/out.ome.zarr", tmp_path / "cache"
    command = ("upscale", slide, url, *FLAGS, "--tile", 128, "--cache", cache)
    run = Run(*command)
    end = time.monotonic() + 60
    while len(names(bucket)) < 20:
        assert time.monotonic() < end
        time.sleep(0.02)
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert "out.ome.zarr/.zattrs" not in names(bucket)
    # a chunk that was damaged or lost since is made again
    boto3.client("s3").put_object(Bucket=bucket, Key="out.ome.zarr/0/0/0/0/0/0", Body=b"1")
    boto3.client("s3").delete_object(Bucket=bucket, Key="out.ome.zarr/0/0/0/0/0/1")
    done = Run(*command, "--json").wait()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed_tiles"] > 5
    upscale(slide, tmp_path / "out.ome.zarr", cache)
    assert same(url, tmp_path / "out.ome.zarr")


def test_a_failing_server_leaves_a_run_to_go_on_with(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory", use_listings_cache=False)
    url, put, calls = "memory://f/out.ome.zarr", type(memory).pipe_file, [0]

    def failing(self: object, path: str, *arguments: object, **keywords: object) -> None:
        calls[0] += 1
        if calls[0] > 20:
            raise ConnectionError("SECRET")
        if calls[0] % 3 == 0:
            raise TimeoutError("it passes")
        put(self, path, *arguments, **keywords)

    monkeypatch.setattr(type(memory), "pipe_file", failing)
    with pytest.raises(
        OutputError, match=r"memory://f/out.ome.zarr: the connection fails"
    ) as caught:
        upscale(slide, url, tmp_path / "cache")
    assert "SECRET" not in str(caught.value)
    assert not memory.exists("/f/out.ome.zarr/.zattrs")
    calls[0] = -(10**6)
    assert upscale(slide, url, tmp_path / "cache").resumed_tiles > 3
    upscale(slide, tmp_path / "out.ome.zarr", tmp_path / "cache")
    assert same(url, tmp_path / "out.ome.zarr")


def test_the_mark_is_put_last(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    put = stores.ObjectStore._put

    def noted(self: stores.ObjectStore, name: str, data: bytes) -> None:
        put(self, name, data)
        order.append(name)

    monkeypatch.setattr(stores.ObjectStore, "_put", noted)
    upscale(slide, "memory://m/out.ome.zarr", tmp_path / "cache")
    assert order[-1] == ".zattrs"


@pytest.mark.parametrize(
    ("output", "options", "said"),
    [
        ("s3://b/out.ome.tif", {}, "write to a path and copy"),
        ("https://user:SECRET@host/out.ome.zarr?SECRET", {}, "over http"),
        ("memory://r/out.ome.zarr", {"zarr_version": "0.5"}, "0.4"),
        ("memory://r/out.ome.zarr", {"uncertainty": 2}, "beside OUT"),
    ],
)
def test_outputs_that_cannot_be(
    output: str, options: dict[str, object], said: str, slide: Path, tmp_path: Path
) -> None:
    with pytest.raises((UsageError, OptionError), match=said) as caught:
        upscale(slide, output, tmp_path / "cache", **options)
    assert "SECRET" not in str(caught.value)
    assert not fsspec.filesystem("memory").exists("/r")


def test_convert_takes_urls(slide: Path, bucket: str, tmp_path: Path) -> None:
    url, cache = f"s3://{bucket}/c.ome.zarr", tmp_path / "cache"
    settings = {"tile": 32, "input_mpp": 0.5}
    result = wsisr.convert(put_slide(slide, bucket), url, cache=cache, **settings)  # type: ignore[arg-type]
    assert result.output == url
    wsisr.convert(slide, tmp_path / "c.ome.zarr", **settings)  # type: ignore[arg-type]
    group, local = (zarr.open_group(str(p), mode="r") for p in (url, tmp_path / "c.ome.zarr"))
    assert np.array_equal(group["0"], local["0"])
    with wsisr.staged(url, cache=cache) as path, wsisr.open_slide(path) as opened:
        assert (opened.width, opened.height) == (160, 120)


def test_the_command_line_tells_no_signature(slide: Path, web: FileServer, tmp_path: Path) -> None:
    url = web.put("in.png", slide.read_bytes()) + "?X-Amz-Signature=SECRET"
    out, cache = tmp_path / "out.ome.tif", tmp_path / "cache"
    commands = [
        ("--debug", "upscale", url, out, *FLAGS, "--cache", cache, "--json"),
        ("--debug", "info", url, "--cache", cache),
        ("--debug", "info", url.replace("in.png", "missing.png"), "--cache", cache),
        ("--debug", "info", url.replace("in.png", "in.svs"), "--cache", cache, "--cache-gb", 0),
    ]
    done = [Run(*command).wait() for command in commands]
    assert [each.returncode > 0 for each in done] == [False, False, True, True]
    assert "--cache-gb 0" in Run(*commands[-1][1:]).wait().stderr
    said = "".join(each.stdout + each.stderr for each in done)
    assert "SECRET" not in said
    assert "in.png" in said
    for file in tmp_path.rglob("*"):
        assert "SECRET" not in file.name
        assert file.is_dir() or b"SECRET" not in file.read_bytes()


def test_evaluate_takes_urls(slide: Path, bucket: str, tmp_path: Path) -> None:
    url = put_slide(slide, bucket)
    judged = wsisr.evaluate(
        url, url, cache=tmp_path / "cache", sr_mpp=0.5, hr_mpp=0.5, tile_size=64, metrics="psnr"
    )
    assert judged
    assert open_cache(tmp_path / "cache").slides.is_dir()


def test_keywords_are_those_of_the_functions_behind() -> None:
    from wsisr import api_remote, evaluation, transcode

    pairs = [
        (transcode.convert, api_remote.ConvertOptions, {"destination"}),
        (evaluation.evaluate, api_remote.EvaluateOptions, {"also"}),
    ]
    for function, options, apart in pairs:
        kinds = inspect.signature(function).parameters.values()
        keywords = {each.name for each in kinds if each.kind is each.KEYWORD_ONLY}
        assert keywords - apart == set(options.__annotations__)
