"""One attempt at a slide: the run, its log, and the figures beside the real scan."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from wsisr.engine import Job, Result
from wsisr.errors import ExistsError, ModelError, OutputError, WsisrError
from wsisr.progress import Progress
from wsisr.scaleout.cohort.tasks import Outcome, SlideTask
from wsisr.sharing import shareable, without_folders

Compute = Callable[[Job, Progress], Result]
log = logging.getLogger(__name__)


def compute_slide(task: SlideTask, progress: Progress, compute: Compute, device: str) -> Outcome:
    """Upscales a slide and judges it where there is a scan; a failure is an outcome, too.

    Args:
        task: the slide.
        progress: called after each window.
        compute: upscales it, `wsisr.scaleout.upscale` for instance.
        device: where the model runs, for the report.
    """
    begun = time.monotonic()
    outcome = Outcome(None)
    with slide_log(task.log, task.job):
        log.info("%s starts: %s", task.job.shown_name, _settings(task.job))
        try:
            result = compute(task.job, progress)
        except (MemoryError, WsisrError, OSError) as error:
            log.error("failed: %s", error)
            outcome = dataclasses.replace(
                outcome, reason=_reason(error), may_retry=is_passing(error)
            )
        except Exception as error:  # a fault of ours ends that slide and not the cohort
            log.exception("failed")
            outcome = dataclasses.replace(outcome, reason=_reason(error), may_retry=True)
        else:
            figures, reason = _judge(task)
            outcome = dataclasses.replace(outcome, result=result, figures=figures, reason=reason)
            log.info("done: %s", json.dumps(shareable(dataclasses.asdict(result) | dict(figures))))
    return dataclasses.replace(
        outcome,
        device=device,
        seconds=time.monotonic() - begun,
        peak_rss_mb=round(psutil.Process().memory_info().rss / 1e6, 1)
        if outcome.result is None
        else outcome.result.peak_rss_mb,
    )


def is_passing(error: BaseException) -> bool:
    """Tells whether a second attempt in a fresh process could get over an error."""
    shortage = isinstance(error, ModelError) and "memory" in str(error)
    if isinstance(error, ExistsError):
        return False
    return shortage or isinstance(error, (OutputError, MemoryError, OSError))


def _reason(error: BaseException) -> str:
    if isinstance(error, WsisrError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "not enough memory; give fewer <workers>, or a smaller <window> or <batch>"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}; its log has more"


def _judge(task: SlideTask) -> tuple[Mapping[str, float], str]:
    """Compares the result with the real scan; why that failed does not undo the result."""
    if task.hr is None:
        return {}, ""
    from wsisr.evaluation import evaluate

    try:
        evaluation = evaluate(task.job.output, task.hr, workers=1)
    except WsisrError as error:
        log.warning("not compared with %s: %s", task.hr.name, error)
        return {}, f"done, but not compared with the scan: {_reason(error)}"
    methods = json.loads(evaluation.json())["methods"]
    found = methods.get("sr", {})
    return {name: value for name, value in found.items() if isinstance(value, float | int)}, ""


def _settings(job: Job) -> str:
    fields = dataclasses.asdict(job)
    blank = dataclasses.asdict(Job(job.source, job.output))
    changed = {name: value for name, value in fields.items() if value != blank[name]}
    return json.dumps(shareable({**changed, "model": job.model, "source": job.shown_name}))


class _Shareable(logging.Formatter):
    """Writes lines without folders, and without the name of an input that is hidden."""

    def __init__(self, job: Job) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._job = job

    def format(self, record: logging.LogRecord) -> str:
        """Gives a line."""
        job = self._job
        text = without_folders(super().format(record), job.source, job.output)
        if job.anonymous:
            for hidden in (job.source.name, job.source.stem):
                text = text.replace(hidden, job.shown_name)
        return text


@contextmanager
def slide_log(path: Path, job: Job) -> Iterator[None]:
    """Appends what is logged in the block to a file, which may be passed on.

    Args:
        path: the file.
        job: what is run, whose folders, and whose name where it is hidden, are not told.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    handler.setFormatter(_Shareable(job))
    root = logging.getLogger("wsisr")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
