"""A cohort from its inputs to its report, `wsisr batch`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from wsisr.errors import OptionError
from wsisr.scaleout.cohort.claims import Claims
from wsisr.scaleout.cohort.crew import LocalCrew
from wsisr.scaleout.cohort.ledger import Ledger, make_folder
from wsisr.scaleout.cohort.manifest import read_rows
from wsisr.scaleout.cohort.planning import sort_by_cost, split_finished, want
from wsisr.scaleout.cohort.report import check_report
from wsisr.scaleout.cohort.rows import ReportRow, Row
from wsisr.scaleout.cohort.run import Cohort, CohortResult, Watch, report_on
from wsisr.scaleout.cohort.shard import choose_shard, take_shard
from wsisr.scaleout.cohort.tasks import Crew
from wsisr.scaleout.devices import choose_devices
from wsisr.scaleout.remote import Stager, open_cache
from wsisr.urls import is_url

MOST_WORKERS = 256


def run_batch(
    inputs: Sequence[str | Path],
    out: Path,
    options: Mapping[str, Any],
    *,
    suffix: str = ".ome.tif",
    gpus: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    scheduler: str | None = None,
    shard: str | None = None,
    retries: int = 1,
    overwrite: bool = False,
    cache: str | Path | None = None,
    cache_gb: float | None = None,
    watch: Watch = lambda state: None,
) -> CohortResult:
    """Upscales many slides; what is finished is left out, and one that fails stops no other.

    Several commands may share a folder of results: each slide is computed once.

    Args:
        inputs: slides, folders, patterns and URLs, or one CSV manifest.
        out: folder of the results, of the report, and of the logs.
        options: keywords of `wsisr.upscale` for all slides; a manifest overrides them.
        suffix: of results that a manifest does not name.
        gpus: numbers of the GPUs that each compute a slide, as `0,1`, or `all`.
        workers: how many slides are computed at once; None is one for each GPU, and else one.
        device: torch device without `gpus`; None is the first GPU, and else the CPU.
        scheduler: of a Dask cluster whose workers compute the slides; None computes them here.
        shard: share of the slides, as `1/8`; None asks the environment of an array of jobs.
        retries: how often a slide is tried again where that can help.
        overwrite: whether results of other settings are replaced.
        cache: folder of the copies of remote slides; None is the user's folder of caches.
        cache_gb: how many GB the copies may take; None is 50.
        watch: told how far the cohort is.

    Returns:
        What became of each slide, and where the report is.

    Raises:
        WsisrError: what is wrong with which input or option, before anything starts; or the folder
            of the results cannot be written any more.
        KeyboardInterrupt: the command was interrupted; the report is written, and the same call
            goes on.
    """
    begun = time.monotonic()
    if retries < 0:
        raise OptionError("retries", retries, "must be 0 or more")
    rows = read_rows(inputs, out, suffix, anonymous=bool(options.get("anonymous")))
    rows = take_shard(rows, None, choose_shard(shard, os.environ))
    check_report(out, _read_by(rows, inputs))
    ledger = Ledger(out)
    left, skipped = split_finished(want(rows, ledger, options), overwrite=overwrite)
    make_folder(out)
    found = {row.id: row for row in skipped}

    def report() -> CohortResult:
        ordered: list[ReportRow] = [found[row.id] for row in rows if row.id in found]
        seconds = time.monotonic() - begun
        return CohortResult(ordered, report_on(ordered, ledger, options, seconds), seconds)

    with ExitStack() as stack:
        claims = stack.enter_context(Claims(ledger.folder))
        for row in skipped:
            claims.clear(row.id)
        if not left:
            return report()
        stager = stack.enter_context(Stager(open_cache(cache, cache_gb)))
        crew = stack.enter_context(open_crew(scheduler, gpus, workers, device))
        cohort = Cohort(
            sort_by_cost(left), ledger, claims, crew, stager, retries=retries, watch=watch
        )
        try:
            cohort.run()
        except KeyboardInterrupt:
            cohort.give_up()
            found |= cohort.rows
            report()
            raise
        found |= cohort.rows
    return report()


def _read_by(rows: Sequence[Row], inputs: Sequence[str | Path]) -> Iterator[Path]:
    """Yields what a cohort reads: its manifest or inputs, slides, scans and masks."""
    for place in inputs:
        if not is_url(place):
            yield Path(place)
    for row in rows:
        for each in (row.slide, row.hr, row.options.get("tissue")):
            if each and not is_url(each):
                yield Path(each)


@contextmanager
def open_crew(
    scheduler: str | None, gpus: str | None, workers: int | None, device: str | None
) -> Iterator[Crew]:
    """Opens those who compute: the processes of this machine, or a cluster.

    Args:
        scheduler: see `run_batch`, as those that follow.
        gpus: see `run_batch`.
        workers: see `run_batch`.
        device: see `run_batch`.

    Raises:
        WsisrError: what is wrong with the cluster, or with which option.
    """
    if scheduler is None:
        with LocalCrew(choose_places(gpus, workers, device)) as crew:
            yield crew
        return
    for option, value in (("gpus", gpus), ("workers", workers)):
        if value is not None:
            rule = "contradicts <scheduler>; each worker of the cluster has one device"
            raise OptionError(option, value, rule)
    from wsisr.scaleout.cluster import DaskCrew, open_cluster

    with open_cluster(scheduler) as cluster, DaskCrew(cluster) as crew:
        yield crew


def choose_places(
    gpus: str | None, workers: int | None, device: str | None
) -> tuple[torch.device, ...]:
    """Gives the device of each place; on the CPU places may outnumber the cores.

    Raises:
        OptionError: a device that is not there, or options that contradict each other.
    """
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise OptionError("workers", workers, f"must lie between 1 and {MOST_WORKERS}")
    devices = choose_devices(gpus, None, device)
    if devices[0].type == "cpu":
        return devices * (workers or 1)
    return choose_devices(gpus, workers, device)
