from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile

from tests.engine.support import job, tissue_like
from tests.processes import python
from wsisr.engine import Job, parts_folder, upscale
from wsisr.errors import ExistsError, OptionError, UsageError
from wsisr.progress import State
from wsisr.scaleout.cluster import connection, upscale_on

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Two worker processes, one thread each."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cluster") / "in.tif"
    tifffile.imwrite(path, tissue_like(130, 330), photometric="rgb", tile=(64, 64))
    return path


def wanted(source: Path, name: str, **changes: object) -> Job:
    return job(source, output=source.with_name(name), tile=64, overwrite=True, **changes)


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
def test_two_workers_make_the_pixels_of_one_process(
    scheduler: str, source: Path, suffix: str
) -> None:
    whole = upscale(wanted(source, "whole" + suffix))
    seen: list[State] = []
    made = upscale_on(scheduler, wanted(source, "out" + suffix), seen.append)
    assert made.sha256_pixels == whole.sha256_pixels
    assert seen[-1].done == seen[-1].total == made.windows > whole.windows
    assert made.tissue_windows >= whole.tissue_windows
    assert sorted(p.name for p in source.parent.glob("out*")) == ["out" + suffix]
    Path(made.output).rename(source.with_name("done" + suffix))


def test_a_killed_worker_costs_nothing(scheduler: str, source: Path) -> None:
    whole = upscale(wanted(source, "whole.ome.tif"))
    with distributed.Client(scheduler, set_as_default=False) as client:
        victim = next(iter(client.run(os.getpid).values()))
    killed = []

    def kill(state: State) -> None:
        if state.done and not killed:
            os.kill(victim, signal.SIGKILL)
            killed.append(state.done / state.total)

    made = upscale_on(scheduler, wanted(source, "killed.ome.tif"), kill)
    assert killed[0] < 1
    assert made.sha256_pixels == whole.sha256_pixels
    assert not parts_folder(Path(made.output)).exists()


def test_an_unreachable_scheduler_is_told_within_15_s(source: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(OptionError, match=r"scheduler tcp://.* not reached"):
        upscale_on(address, wanted(source, "none.ome.tif"))
    assert time.monotonic() - begun < 15
    with pytest.raises(OptionError, match="not reached"):
        upscale_on("nonsense://", wanted(source, "none.ome.tif"))


def test_workers_of_another_version_are_refused(
    scheduler: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = connection.VERSION
    monkeypatch.setattr(connection, "VERSION", "99.1")
    with pytest.raises(OptionError, match=rf"has wsisr {ours}, here is wsisr 99\.1"):
        upscale_on(scheduler, wanted(source, "none.ome.tif"))


def test_files_that_workers_do_not_see_are_named(
    scheduler: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # stands for a folder that only the client has
    with connection.open_cluster(scheduler) as cluster:
        lost = replace(wanted(source, "a.ome.tif"), source=source.with_name("gone.tif"))
        with pytest.raises(OptionError, match=r"worker on \S+ does not see .*gone\.tif"):
            connection.check_workers(cluster, connection.absolute(lost))
        monkeypatch.setattr(Path, "touch", lambda self: None)
        with pytest.raises(OptionError, match="does not see the output's folder"):
            connection.check_workers(cluster, wanted(source, "a.ome.tif"), seen_s=0.2)


def test_a_cluster_without_workers_is_told() -> None:
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        pytest.raises(OptionError, match="has no workers after 1 s"),
        connection.open_cluster(cluster.scheduler_address, workers_s=1),
    ):
        pass


def test_what_contradicts_a_cluster_is_refused(source: Path) -> None:
    with pytest.raises(UsageError, match="workers"):
        upscale_on("local", wanted(source, "none.ome.tif", workers=2))
    there = source.with_name("there.ome.tif")
    there.touch()
    with pytest.raises(ExistsError, match="exists"):
        upscale_on("local", replace(wanted(source, there.name), overwrite=False))


@pytest.mark.slow
def test_the_command_starts_workers_of_its_own(source: Path) -> None:
    whole = upscale(wanted(source, "whole.ome.tif"))
    out = source.with_name("command.ome.tif")
    options = "--scale 4 --input-mpp 1 --model bicubic --window 128 --overlap 32 --tile 64"
    done = python(
        "from wsisr.cli import run\nif __name__ == '__main__': run()",
        "upscale",
        source,
        out,
        *options.split(),
        "--compression",
        "deflate",
        "--scheduler",
        "local",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256_pixels"] == whole.sha256_pixels
