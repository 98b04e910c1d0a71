"""What passes between a cohort and those who compute its slides: plain, picklable data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from wsisr.engine import Job, Result


@dataclass(frozen=True)
class SlideTask:
    """A slide to be upscaled.

    Attributes:
        id: its name in the cohort, which is also that of its files.
        job: what is asked for; the source is a file of this machine, or on a shared file system.
        hr: the real scan that the result is judged against; None judges nothing.
        log: the file that messages of this slide are appended to.
    """

    id: str
    job: Job
    hr: Path | None
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt at a slide.

    Attributes:
        result: of the run; None where it failed.
        reason: why it failed, in one line; empty where it is done.
        may_retry: whether a second attempt in a fresh process could succeed: so after a killed
            process or a shortage, and not after a broken file or a wrong option.
        figures: what `wsisr eval` measured, by name of the measure; empty without a scan.
        device: where the model ran.
        seconds: duration of the attempt.
        peak_rss_mb: largest resident set of the process that computed, in MB.
    """

    result: Result | None
    reason: str = ""
    may_retry: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    device: str = ""
    seconds: float = 0.0
    peak_rss_mb: float = 0.0


@dataclass(frozen=True)
class Update:
    """How far a slide is.

    Attributes:
        id: the slide.
        done: windows that are finished.
        total: windows in all.
    """

    id: str
    done: int
    total: int


@dataclass(frozen=True)
class Ended:
    """An attempt at a slide is over.

    Attributes:
        id: the slide.
        outcome: what came of it.
    """

    id: str
    outcome: Outcome


class Crew(Protocol):
    """Those who compute the slides of a cohort: processes of this machine, or a cluster.

    As a context manager it ends them when left, and what they computed so far can be resumed.
    """

    @property
    def room(self) -> int:
        """Counts the slides that can be started at once."""
        ...

    def start(self, task: SlideTask, places: int = 1) -> None:
        """Starts a slide.

        Args:
            task: the slide.
            places: how many of the free places share it; more than one for the last slides.
        """
        ...

    def events(self, timeout_s: float) -> Sequence[Update | Ended]:
        """Waits until something happens, at most `timeout_s`, and says what did."""
        ...

    def close(self) -> None:
        """Ends what is under way, which can be resumed, and lets the workers go."""
        ...
