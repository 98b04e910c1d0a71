"""The slides of a cohort on a cluster: a task each, and the last slides in bands."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from wsisr.closing import Closing
from wsisr.errors import WsisrError
from wsisr.progress import State
from wsisr.scaleout.cluster import tasks
from wsisr.scaleout.cluster.bands import ClusterError, check_output, result_of, run_bands
from wsisr.scaleout.cluster.connection import Cluster, absolute, check_workers
from wsisr.scaleout.cohort import Ended, Outcome, SlideTask, Update
from wsisr.version import VERSION

if TYPE_CHECKING:
    from distributed import Future


class DaskCrew(Closing):
    """The workers of a cluster as a `Crew`.

    Slides are started in the order of the calls. A slide whose task loses several workers fails
    with that reason, and the others go on.

    Args:
        cluster: stays open longer than the crew.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._topic = f"{tasks.TOPIC}-{uuid.uuid4().hex}"
        self._events: queue.Queue[Update | Ended] = queue.Queue()
        self._places: dict[str, int] = {}
        self._lock = Lock()
        self._futures: dict[str, Future[Any]] = {}
        cluster.client.subscribe_topic(self._topic, self._note)

    @property
    def room(self) -> int:
        """See `Crew`."""
        with self._lock:
            return max(0, self._cluster.places - sum(self._places.values()))

    def start(self, task: SlideTask, places: int = 1) -> None:
        """See `Crew`; with several places the slide is split into bands."""
        task = replace(task, job=absolute(task.job), log=task.log.absolute())
        with self._lock:
            self._places[task.id] = places
        if places > 1 and task.job.uncertainty is None:
            Thread(target=self._compute_bands, args=(task,), daemon=True).start()
            return
        try:
            check_workers(self._cluster, task.job)
        except WsisrError as error:
            self._end(task.id, Outcome(None, str(error)))
            return
        resources = self._cluster.resources
        future = self._cluster.client.submit(
            tasks.slide, task, VERSION, self._topic, resources=resources, pure=False
        )
        self._futures[task.id] = future
        future.add_done_callback(lambda ended: self._end(task.id, _outcome_of(ended)))

    def events(self, timeout_s: float) -> Sequence[Update | Ended]:
        """See `Crew`."""
        try:
            found = [self._events.get(timeout=timeout_s)]
        except queue.Empty:
            return ()
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def close(self) -> None:
        """See `Crew`; the cluster itself stays."""
        self._cluster.client.unsubscribe_topic(self._topic)
        self._cluster.client.cancel(list(self._futures.values()), force=True)

    def _compute_bands(self, task: SlideTask) -> None:
        def tell(state: State) -> None:
            self._events.put(Update(task.id, state.done, state.total))

        try:
            check_workers(self._cluster, task.job, of_one_kind=True)
            check_output(task.job)
            result = run_bands(self._cluster, task.job, tell)
        except WsisrError as error:
            outcome = _failed(error)
        else:
            outcome = Outcome(result, seconds=result.seconds, peak_rss_mb=result.peak_rss_mb)
        self._end(task.id, outcome)

    def _note(self, event: tuple[float, tuple[str, int, int]]) -> None:
        self._events.put(Update(*event[1]))

    def _end(self, name: str, outcome: Outcome) -> None:
        with self._lock:
            self._places.pop(name, None)
        self._futures.pop(name, None)
        self._events.put(Ended(name, outcome))


def _outcome_of(future: Future[Any]) -> Outcome:
    try:
        outcome: Outcome = result_of(future)
    except WsisrError as error:
        return _failed(error)
    except Exception as error:  # a fault of ours ends that slide, not the cohort
        return Outcome(None, f"{type(error).__name__}: {error}", may_retry=True)
    return outcome


def _failed(error: WsisrError) -> Outcome:
    return Outcome(None, str(error), may_retry=isinstance(error, ClusterError))
