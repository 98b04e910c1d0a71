"""One slide on a cluster: its bands are tasks, and a last task joins them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wsisr.engine import (
    Announce,
    Job,
    Progress,
    Result,
    Run,
    band_plan,
    check_outputs,
    find_parts,
    foresee_run,
    remove_parts,
    split_rows,
)
from wsisr.errors import OptionError, UsageError, WsisrError
from wsisr.guard import refuse_foreign
from wsisr.progress import State
from wsisr.pyramid import is_own_output
from wsisr.scaleout.cluster import tasks
from wsisr.scaleout.cluster.connection import Cluster, absolute, check_workers, open_cluster
from wsisr.version import VERSION

if TYPE_CHECKING:
    from distributed import Future

ROWS_OF_A_BAND = 4
"""The least rows of tiles of a band: the rows of windows at its border are computed twice."""
BANDS_OF_A_PLACE = 4
RETRIES = 1
WAIT_S = 0.5


class ClusterError(WsisrError):
    """Workers of the cluster were lost again and again over one task."""


def upscale_on(
    scheduler: str, job: Job, progress: Progress | None = None, announce: Announce | None = None
) -> Result:
    """Upscales a slide on a cluster, in bands.

    Its parts are kept beside the output in `<output>.parts` until it is complete, so the same
    command goes on after an interruption.

    Args:
        scheduler: address as `tcp://host:port`, or `local`.
        job: what is asked for; all its files are on a file system that the workers share.
        progress: told how far the windows of all bands are.
        announce: called with what the run will be, where this machine can tell.

    Raises:
        WsisrError: what is wrong with the cluster, or with which file or option.
    """
    for option in ("gpus", "workers"):
        if getattr(job, option) is not None:
            raise UsageError(
                f"<{option}> contradicts <scheduler>; each worker of the cluster has one device"
            )
    if job.destination is not None:
        rule = "its workers write to the file system that they share; give a path as the output"
        raise OptionError("scheduler", scheduler, rule)
    job = absolute(job)
    check_output(job)
    with open_cluster(scheduler) as cluster:
        check_workers(cluster, job, of_one_kind=True)
        return run_bands(cluster, job, progress, announce)


def check_output(job: Job) -> None:
    """Makes sure that the output may be written, and discards parts that are not to be gone on.

    Raises:
        ExistsError: the output is there.
        UsageError: it is one of the inputs, or was not made by wsisr.
    """
    check_outputs(job)
    refuse_foreign(job.output, is_own_output, overwrite=job.overwrite)
    if job.resume is False or (job.overwrite and not job.resume):
        remove_parts(job.output)


def run_bands(
    cluster: Cluster,
    job: Job,
    progress: Progress | None = None,
    announce: Announce | None = None,
) -> Result:
    """Computes the bands of a slide as tasks of a cluster and joins them.

    Args:
        cluster: its workers were checked.
        job: with absolute paths.
        progress: told how far the windows of all bands are.
        announce: see `upscale_on`.

    Raises:
        ClusterError: one task cost several workers their lives.
        WsisrError: what a task met.
    """
    begun = time.monotonic()
    resources: dict[str, Any] = {"resources": cluster.resources, "pure": False}
    submit = cluster.client.submit
    run: Run = result_of(submit(tasks.prepare_job, job, VERSION, **resources))
    if announce is not None:
        # this machine may see the slide otherwise than the workers do, or not at all
        with suppress(WsisrError):
            announce(foresee_run(run))
    rows = run.image.grid(0)[0]
    wanted = min(cluster.places * BANDS_OF_A_PLACE, max(cluster.places, rows // ROWS_OF_A_BAND))
    bands = split_rows(run, wanted)
    sizes = {rows.start: len(band_plan(run, rows)) for rows in bands}
    topic = f"{tasks.TOPIC}-{uuid.uuid4().hex}"
    counts = [(0, 0)]
    with _reports(cluster, topic) as reports:
        futures = {
            submit(tasks.band, run, rows, VERSION, topic, retries=RETRIES, **resources): rows.start
            for rows in bands
        }
        try:
            for finished in _ends(cluster, list(futures)):
                for future in finished:
                    counts.append(result_of(future))
                    reports[futures[future]] = sizes[futures[future]]
                if progress is not None:
                    done = sum(min(reports.get(name, 0), size) for name, size in sizes.items())
                    progress(State(done, sum(sizes.values()), seconds=time.monotonic() - begun))
        except BaseException:
            cluster.client.cancel(list(futures), force=True)
            raise
    parts = find_parts(job.output)
    result: Result = result_of(
        submit(tasks.join, job, parts, VERSION, retries=RETRIES, **resources)
    )
    remove_parts(job.output)
    windows, tissue_windows = map(sum, zip(*counts, strict=True))
    return replace(
        result,
        windows=result.windows + windows,
        tissue_windows=result.tissue_windows + tissue_windows,
        seconds=round(time.monotonic() - begun, 3),
    )


@contextmanager
def _reports(cluster: Cluster, topic: str) -> Iterator[dict[int, int]]:
    """Gathers how many windows of each band are done, by the band's first row."""
    reports: dict[int, int] = {}

    def note(event: tuple[float, tuple[int, int, int]]) -> None:
        name, done, _ = event[1]
        reports[name] = max(done, reports.get(name, 0))

    cluster.client.subscribe_topic(topic, note)
    try:
        yield reports
    finally:
        cluster.client.unsubscribe_topic(topic)


def _ends(cluster: Cluster, futures: list[Future[Any]]) -> Iterator[list[Future[Any]]]:
    """Yields those that have ended since the last time, or none, until all have."""
    from distributed import wait

    while futures:
        with suppress(TimeoutError), cluster.client.as_current():
            wait(futures, timeout=WAIT_S, return_when="FIRST_COMPLETED")
        ended = [future for future in futures if future.done()]
        futures = [future for future in futures if future not in ended]
        yield ended


def result_of(future: Future[Any]) -> Any:
    """Waits for a task and gives its result.

    Raises:
        ClusterError: it cost several workers their lives, or the scheduler was lost.
        WsisrError: what the task met.
    """
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise ClusterError(
            "several workers of the cluster were lost over one task; see their logs: most often "
            "the memory did not suffice, so give workers more, or a smaller <window> or <batch>"
        ) from error
    except CancelledError as error:
        raise ClusterError(
            "the scheduler was lost, or gave the task up; the same command goes on"
        ) from error
