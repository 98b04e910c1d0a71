"""From the rows of a cohort to what is left to do: jobs, what is finished, and the order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wsisr.engine import (
    Job,
    find_resolution,
    find_tissue,
    find_tissue_windows,
    fingerprint,
    open_view,
    plan_run,
    prepare,
    without_machine,
)
from wsisr.errors import ExistsError, WsisrError
from wsisr.progress import cost_of_windows
from wsisr.pyramid import read_provenance
from wsisr.scaleout.cohort.ledger import Known, Ledger, request_of, state_of
from wsisr.scaleout.cohort.rows import ReportRow, Row
from wsisr.scaleout.cohort.tasks import SlideTask
from wsisr.scaleout.devices import usable_cores
from wsisr.urls import is_url

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A slide that is to be upscaled.

    Attributes:
        row: as it was asked for.
        job: what is asked for; of a slide behind a URL the source is its name until it is staged.
        request: digest of it, see `request_of`.
        known: what commands before noted of it.
        cost: what it takes, in any unit.
    """

    row: Row
    job: Job
    request: str
    known: Known | None
    cost: float = 0.0

    def task(self, logs: Path, source: Path, hr: Path | None) -> SlideTask:
        """Gives what a crew is handed.

        Args:
            logs: folder of the logs.
            source: the slide on this machine.
            hr: the real scan on this machine.
        """
        log_file = logs / f"{self.row.id}.log"
        return SlideTask(self.row.id, replace(self.job, source=source), hr, log_file)

    def is_finished(self) -> bool:
        """Tells whether the output is the one that is asked for, as a command before noted."""
        known = self.known
        return (
            known is not None
            and known.row.status == "done"
            and known.request == self.request
            and known.written is not None
            and known.written == state_of(self.job.output)
        )


def want(rows: Sequence[Row], ledger: Ledger, options: Mapping[str, Any]) -> list[Wanted]:
    """Makes the jobs of rows.

    Args:
        rows: the slides.
        ledger: what is known of them.
        options: keywords of `wsisr.upscale`, which those of a row override.

    Raises:
        WsisrError: an option that does not do.
    """
    found = []
    for row in rows:
        source = Path(row.slide.rstrip("/").rpartition("/")[2]) if is_url(row.slide) else row.slide
        job = make_job(Path(source), row.output, {**options, **row.options})
        found.append(Wanted(row, job, request_of(job, row.slide), ledger.read(row.id)))
    return found


def make_job(source: Path, output: Path, options: Mapping[str, Any]) -> Job:
    """Makes a job of keywords of `wsisr.upscale`, settings of the model among them."""
    names = set(Job.__dataclass_fields__)
    settings = {k: v for k, v in options.items() if k not in names and v is not None}
    return Job(source, output, settings=settings, **{k: options[k] for k in options if k in names})


def split_finished(
    wanted: Sequence[Wanted], *, overwrite: bool
) -> tuple[list[Wanted], list[ReportRow]]:
    """Tells slides that are finished from those that are left to do.

    Args:
        wanted: the slides.
        overwrite: whether outputs of other settings are replaced.

    Returns:
        The slides to do, and the rows of those that are finished.

    Raises:
        ExistsError: an output is there that was made otherwise.
    """
    left, skipped, others = [], [], []
    for each in wanted:
        output = each.job.output
        if each.is_finished() or (output.exists() and _is_same(each)):
            hidden = each.job.anonymous
            row = ReportRow(each.row.id, each.row.slide, output, "done", anonymous=hidden)
            if each.known is not None and each.known.row.status == "done":
                row = replace(each.known.row, slide=each.row.slide, anonymous=hidden)
            skipped.append(replace(row, status="skipped", attempts=0))
        elif output.exists() and not overwrite:
            others.append(output)
        else:
            left.append(replace(each, job=replace(each.job, overwrite=overwrite)))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ExistsError(
            f"{others[0]}{more}: made with other settings or of another input; give <overwrite> to "
            "replace, or another folder"
        )
    return left, skipped


def _is_same(wanted: Wanted) -> bool:
    """Tells whether an output that nothing is known of is the one that is asked for."""
    if is_url(wanted.row.slide):
        return False
    stored = read_provenance(wanted.job.output)
    if stored is None:
        return False
    stored.pop("damaged_source_tiles", None)
    try:
        image = prepare(wanted.job).image
    except WsisrError:
        return False
    # on which machine it was made is no reason to make it again
    made, wanted_now = (without_machine(each) for each in (stored, dict(image.provenance)))
    return fingerprint(replace(image, provenance=made)) == fingerprint(
        replace(image, provenance=wanted_now)
    )


def sort_by_cost(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Puts the slides that take longest first, by their pixels and their tissue.

    A slide that cannot be opened costs nothing, and fails in its turn.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        costs = pool.map(cost_of, wanted)
        priced = [replace(each, cost=cost) for each, cost in zip(wanted, costs, strict=True)]
    return sorted(priced, key=lambda each: -each.cost)


def cost_of(wanted: Wanted) -> float:
    """Estimates what a slide takes: windows with tissue, and glass a little, by their pixels."""
    if is_url(wanted.row.slide):
        return 0.0
    job = wanted.job
    try:
        with open_view(job, set()) as view:
            plan = plan_run(job, view, find_resolution(job, view).scale)
            found = find_tissue_windows(plan, find_tissue(job, view))
    except (WsisrError, OSError, ValueError) as error:
        log.debug("%s: %s", job.source, error)
        return 0.0
    tissue = int(found.sum())
    return cost_of_windows(tissue, found.size - tissue) * plan.window**2
