"""Many slides by one command, and by several that share a folder.

A slide is taken by a claim, computed by a crew, and noted in the ledger; what is finished is not
done again, and one that fails stops no other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from wsisr.errors import WsisrError
from wsisr.scaleout.cohort.claims import Claims
from wsisr.scaleout.cohort.ledger import Known, Ledger, state_of
from wsisr.scaleout.cohort.planning import Wanted
from wsisr.scaleout.cohort.report import ReportPaths, write_report
from wsisr.scaleout.cohort.rows import ReportRow, Status
from wsisr.scaleout.cohort.tasks import Crew, Ended, Outcome, Update
from wsisr.scaleout.remote import Stager

POLL_S = 0.5
OTHERS_S = 2.0
"""How often slides that other commands compute are looked after."""


@dataclass(frozen=True)
class CohortState:
    """How far a cohort is; what is finished before the command is not counted.

    Attributes:
        done: slides that are finished, failed or computed elsewhere.
        failed: those of them that failed.
        total: slides in all.
        share: part of the work that is done, 0 to 1, with that of slides under way.
        seconds: since the first slide was started.
        running: slide -> (windows done, windows in all).
        ended: what became of a slide, where this is told because it ended.
    """

    done: int
    failed: int
    total: int
    share: float
    seconds: float
    running: Mapping[str, tuple[int, int]]
    ended: ReportRow | None = None

    @property
    def seconds_to_go(self) -> float | None:
        """Estimates how long the rest takes; None as long as too little is done to tell."""
        if self.share < 0.01:
            return None
        return self.seconds * (1 - self.share) / self.share


Watch = Callable[[CohortState], None]


@dataclass(frozen=True)
class CohortResult:
    """What came of a cohort.

    Attributes:
        rows: what became of the slides of this command, in the order they were given.
        report: the files of the report.
        seconds: duration of the command.
    """

    rows: Sequence[ReportRow]
    report: ReportPaths
    seconds: float

    def count(self, status: Status) -> int:
        """Counts the slides of a status."""
        return sum(row.status == status for row in self.rows)


@dataclass
class _Slide:
    """A slide on its way.

    Attributes:
        wanted: what is asked for.
        attempts: how often it was started.
        seconds: duration of the attempts.
        held: keeps the copy of a slide behind a URL as long as it is computed.
        place: (windows done, windows in all).
    """

    wanted: Wanted
    attempts: int = 0
    seconds: float = 0.0
    held: ExitStack = field(default_factory=ExitStack)
    place: tuple[int, int] = (0, 0)

    @property
    def share(self) -> float:
        """Tells which part of it is done."""
        done, total = self.place
        return done / total if total else 0.0


class Cohort:
    """The slides of one command on their way from waiting to noted.

    Args:
        wanted: the slides to do, those that take longest first.
        ledger: what is known of slides.
        claims: those of this command.
        crew: who computes.
        stager: copies slides behind URLs to this machine.
        retries: how often a slide is tried again where that can help.
        watch: told how far the cohort is.
    """

    def __init__(
        self,
        wanted: Sequence[Wanted],
        ledger: Ledger,
        claims: Claims,
        crew: Crew,
        stager: Stager,
        *,
        retries: int,
        watch: Watch,
    ) -> None:
        self._ledger, self._claims, self._crew, self._stager = ledger, claims, crew, stager
        self._retries, self._watch = retries, watch
        self._waiting = deque(_Slide(each) for each in wanted)
        self._running: dict[str, _Slide] = {}
        self._elsewhere: list[_Slide] = []
        self._looked = 0.0
        self._total = len(wanted)
        self._cost = sum(_weight(each) for each in wanted)
        self._cost_done = 0.0
        self._started = time.monotonic()
        self.rows: dict[str, ReportRow] = {}

    def run(self) -> None:
        """Computes all slides.

        Raises:
            OutputError: the folder of the results cannot be written any more.
        """
        while self._waiting or self._running or self._elsewhere:
            self._hand_out()
            if self._running:
                for event in self._crew.events(POLL_S):
                    self._take(event)
            elif self._elsewhere and not self._waiting:
                time.sleep(POLL_S)
            self._tell()

    def give_up(self) -> None:
        """Notes the slides that were not finished as interrupted."""
        for slide in (*self._running.values(), *self._waiting, *self._elsewhere):
            reason = "its run goes on with the same command" if slide.attempts else "not started"
            row = replace(_blank(slide, "interrupted"), reason=reason)
            self.rows[row.id] = row
            slide.held.close()

    def _hand_out(self) -> None:
        self._look_elsewhere()
        while self._waiting and (room := self._crew.room):
            slide = self._waiting.popleft()
            if not self._is_ours(slide):
                continue
            # the last slides share the places that would stay idle
            places = max(1, room // (1 + len(self._waiting)))
            self._start(slide, places)

    def _is_ours(self, slide: _Slide) -> bool:
        """Claims a slide, unless another command has it, or had it since this one began."""
        name = slide.wanted.row.id
        if slide.attempts:
            return True
        if not self._claims.take(name):
            self._elsewhere.append(slide)
            return False
        if self._adopt(slide):
            self._claims.release(name)
            return False
        return True

    def _adopt(self, slide: _Slide) -> bool:
        """Takes over what another command noted of a slide since this one began."""
        wanted = slide.wanted
        known = self._ledger.read(wanted.row.id)
        if known is None or known.request != wanted.request:
            return False
        if wanted.known is not None and known.command == wanted.known.command:
            return False
        if known.row.status == "done":
            self._close(slide, replace(known.row, status="elsewhere"))
        elif known.row.status == "failed":
            self._close(slide, known.row)
        else:
            return False
        return True

    def _look_elsewhere(self) -> None:
        if not self._elsewhere or time.monotonic() - self._looked < OTHERS_S:
            return
        self._looked = time.monotonic()
        elsewhere, self._elsewhere = self._elsewhere, []
        for slide in elsewhere:
            if self._adopt(slide):
                continue
            # whoever had it may have died
            if self._claims.take(slide.wanted.row.id):
                self._claims.release(slide.wanted.row.id)
                self._waiting.append(slide)
            else:
                self._elsewhere.append(slide)

    def _start(self, slide: _Slide, places: int) -> None:
        wanted = slide.wanted
        slide.attempts += 1
        logs = self._ledger.folder.parent / "logs"
        try:
            source = slide.held.enter_context(self._stager.staged(wanted.row.slide))
            hr = None
            if wanted.row.hr is not None:
                hr = slide.held.enter_context(self._stager.staged(wanted.row.hr))
        except WsisrError as error:
            self._end(slide, Outcome(None, str(error)))
            return
        if self._waiting:
            self._stager.prefetch(self._waiting[0].wanted.row.slide)
        self._running[wanted.row.id] = slide
        self._crew.start(wanted.task(logs, source, hr), places)

    def _take(self, event: Update | Ended) -> None:
        if isinstance(event, Update):
            if event.id in self._running:
                self._running[event.id].place = (event.done, event.total)
            return
        slide = self._running.pop(event.id)
        slide.seconds += event.outcome.seconds
        failed = event.outcome.result is None
        if failed and event.outcome.may_retry and slide.attempts <= self._retries:
            slide.place = (0, 0)
            slide.held.close()
            self._waiting.appendleft(slide)
            return
        self._end(slide, event.outcome)

    def _end(self, slide: _Slide, outcome: Outcome) -> None:
        row = _row_of(slide, outcome)
        wanted = slide.wanted
        written = state_of(row.output) if row.status == "done" else None
        command = self._claims.owner.command
        self._ledger.write(Known(row, wanted.request, written, command))
        self._claims.release(row.id)
        self._close(slide, row)

    def _close(self, slide: _Slide, row: ReportRow) -> None:
        slide.held.close()
        self.rows[row.id] = row
        self._cost_done += _weight(slide.wanted)
        self._tell(row)

    def _tell(self, ended: ReportRow | None = None) -> None:
        under_way = sum(s.share * _weight(s.wanted) for s in self._running.values())
        self._watch(
            CohortState(
                done=len(self.rows),
                failed=sum(row.status == "failed" for row in self.rows.values()),
                total=self._total,
                share=min(1.0, (self._cost_done + under_way) / self._cost) if self._cost else 0.0,
                seconds=time.monotonic() - self._started,
                running={name: slide.place for name, slide in self._running.items()},
                ended=ended,
            )
        )


def _weight(wanted: Wanted) -> float:
    """Gives the cost of a slide; one of unknown cost counts a little."""
    return max(wanted.cost, 1.0)


def _blank(slide: _Slide, status: Status) -> ReportRow:
    row = slide.wanted.row
    anonymous = slide.wanted.job.anonymous
    return ReportRow(
        row.id, row.slide, row.output, status, attempts=slide.attempts, anonymous=anonymous
    )


def _row_of(slide: _Slide, outcome: Outcome) -> ReportRow:
    """Says what became of a slide."""
    row = replace(
        _blank(slide, "failed" if outcome.result is None else "done"),
        reason=outcome.reason,
        seconds=round(slide.seconds, 3),
        peak_rss_mb=outcome.peak_rss_mb or None,
        device=outcome.device,
        figures=outcome.figures,
    )
    result = outcome.result
    if result is None:
        return row
    pixels = result.width * result.height / 1e6
    return replace(
        row,
        mpix_per_s=round(pixels / result.seconds, 4) if result.seconds else None,
        tissue_tiles=result.tissue_windows,
        sha256_pixels=result.sha256_pixels,
    )


def report_on(
    rows: Sequence[ReportRow], ledger: Ledger, settings: Mapping[str, Any], seconds: float
) -> ReportPaths:
    """Writes the report: the slides of this command, and those that others noted in the folder.

    Raises:
        OutputError: it cannot be written.
    """
    own = {row.id for row in rows}
    others = [ledger.read(name) for name in ledger.names() if name not in own]
    every = [*rows, *(known.row for known in others if known is not None)]
    return write_report(every, ledger.folder.parent, settings=settings, seconds=seconds)
