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
    with slide_log(task.log):
        log.info("%s starts: %s", task.job.source.name, _settings(task.job))
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
            log.info("done: %s", json.dumps({**dataclasses.asdict(result), **figures}, default=str))
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
    return json.dumps({**changed, "model": job.model}, default=str)


@contextmanager
def slide_log(path: Path) -> Iterator[None]:
    """Appends what is logged in the block to a file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
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
