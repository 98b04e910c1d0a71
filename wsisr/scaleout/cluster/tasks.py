"""What runs on a worker of the cluster: one task at a time, with the model loaded once."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from wsisr.engine import (
    InProcess,
    Job,
    Result,
    Run,
    Stopwatch,
    compute_band,
    part_path,
    prepare,
    upscale,
    window_model,
)
from wsisr.errors import UsageError, WsisrError
from wsisr.plan import Plan
from wsisr.progress import Progress, State
from wsisr.scaleout.cohort import Outcome, SlideTask
from wsisr.version import VERSION

if TYPE_CHECKING:
    from wsisr.models import Upscaler

TOPIC = "wsisr-progress"
REPORT_S = 0.5

_one_at_a_time = Lock()
_loaded: dict[str, Upscaler] = {}


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
    begun = time.monotonic()
    try:
        _check_version(version)
        with _one_at_a_time:
            result = upscale(task.job, _reporter(topic, task.id), open_executor=open_kept)
    except WsisrError as error:
        return Outcome(None, str(error), seconds=time.monotonic() - begun)
    return Outcome(result, seconds=result.seconds, peak_rss_mb=result.peak_rss_mb)


def open_kept(run: Run, plan: Plan, clock: Stopwatch) -> InProcess:
    """Starts the executor of this process with the model of the last run if it is the same."""
    made_by = {k: v for k, v in run.image.provenance.items() if k not in ("input", "region")}
    key = f"{run.model.device} {json.dumps(made_by, sort_keys=True)}"
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = run.model.load()
    model = _loaded[key]
    return InProcess(window_model(run, model), model.device, run.job.batch, clock)


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
