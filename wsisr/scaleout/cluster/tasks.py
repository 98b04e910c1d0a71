"""What runs on a worker of the cluster: one task at a time, with the model loaded once."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from socket import gethostname
from threading import Lock

from wsisr.engine import (
    Job,
    Result,
    Run,
    compute_band,
    part_path,
    prepare,
    upscale,
)
from wsisr.errors import UsageError
from wsisr.progress import Progress, State
from wsisr.scaleout.cohort import Outcome, SlideTask, compute_slide
from wsisr.scaleout.kept import open_kept
from wsisr.version import VERSION

TOPIC = "wsisr-progress"
REPORT_S = 0.5

_one_at_a_time = Lock()


def prepare_job(job: Job, version: str) -> Run:
    """Works out a job where it will run, for precision and device are those of the worker."""
    _check_version(version)
    return prepare(job)


def band(run: Run, rows: range, version: str, topic: str) -> tuple[int, int]:
    """Computes a band of a slide into its part, see `wsisr.engine.compute_band`."""
    _check_version(version)
    with _one_at_a_time:
        part, report = part_path(run.job.output, rows), _reporter(topic, rows.start)
        return compute_band(run, rows, part, report, open_executor=open_kept)


def join(job: Job, parts: list[Path], version: str) -> Result:
    """Joins the parts of a slide; what one of them lacks is computed."""
    _check_version(version)
    with _one_at_a_time:
        return upscale(job, parts=parts, open_executor=open_kept)


def slide(task: SlideTask, version: str, topic: str) -> Outcome:
    """Computes a slide; its failure is an outcome, too."""
    try:
        _check_version(version)
    except UsageError as error:
        return Outcome(None, str(error))

    def compute(job: Job, progress: Progress) -> Result:
        return upscale(job, progress, open_executor=open_kept)

    with _one_at_a_time:
        return compute_slide(task, _reporter(topic, task.id), compute, f"worker {gethostname()}")


def _check_version(version: str) -> None:
    """Refuses what a client of another version asks for: this worker came after its check."""
    if version != VERSION:
        raise UsageError(f"a worker has wsisr {VERSION}, the client {version}; install the same")


def _reporter(topic: str, name: int | str) -> Progress:
    from distributed import get_worker

    worker, last = get_worker(), 0.0

    def report(state: State) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_S:
            last = time.monotonic()
            # a report that is lost is made up for by the next
            with suppress(OSError):
                worker.log_event(topic, (name, state.done, state.total))

    return report
