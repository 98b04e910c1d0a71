"""Reaches a Dask scheduler, and makes sure before any work that its workers can do it."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsisr.engine import Job
from wsisr.errors import OptionError, OutputError
from wsisr.files import os_errors
from wsisr.scaleout.devices import usable_cores
from wsisr.version import VERSION

if TYPE_CHECKING:
    from distributed import Client

REACH_S = 10.0
"""How long a scheduler may take to answer."""
WORKERS_S = 60.0
"""How long the first worker may take to come."""
SEEN_S = 10.0
"""How long a network file system may take to show a new file."""
GPU = "GPU"


@dataclass(frozen=True)
class Cluster:
    """A cluster that has been reached.

    Attributes:
        client: speaks with its scheduler.
        scheduler: as the user named it.
    """

    client: Client
    scheduler: str

    @property
    def places(self) -> int:
        """Counts the workers that can compute at once, those with GPUs alone if there are any."""
        return max(1, len(self._workers()))

    @property
    def resources(self) -> dict[str, float] | None:
        """Gives what a task that computes asks a worker for."""
        return {GPU: 1} if self._with_gpus() else None

    def _workers(self) -> Sequence[Any]:
        return self._with_gpus() or list(_workers_of(self.client).values())

    def _with_gpus(self) -> Sequence[Any]:
        workers = _workers_of(self.client).values()
        return [worker for worker in workers if worker["resources"].get(GPU)]


def _workers_of(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return found


@contextmanager
def open_cluster(
    scheduler: str, *, reach_s: float = REACH_S, workers_s: float = WORKERS_S
) -> Iterator[Cluster]:
    """Reaches a scheduler and waits for its first worker.

    Args:
        scheduler: address as `tcp://host:port`; `local` starts worker processes on this machine,
            one for each core, and ends them at the end.
        reach_s: how long the scheduler may take to answer.
        workers_s: how long the first worker may take to come.

    Yields:
        The cluster.

    Raises:
        OptionError: Dask is not installed, the scheduler is not reached, or it has no workers.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        rule = 'needs Dask; install it: pip install "wsisr[dask]"'
        raise OptionError("scheduler", scheduler, rule) from error
    with ExitStack() as stack:
        address: Any = scheduler
        if scheduler == "local":
            address = stack.enter_context(
                LocalCluster(
                    n_workers=usable_cores(),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
            )
        try:
            client = stack.enter_context(Client(address, timeout=reach_s, set_as_default=False))
        except (OSError, ValueError) as error:
            rule = (
                f"not reached within {reach_s:g} s; give the address that `dask scheduler` "
                "prints, as tcp://host:port, or local"
            )
            raise OptionError("scheduler", scheduler, rule) from error
        try:
            client.wait_for_workers(1, timeout=workers_s)
        except TimeoutError as error:
            rule = (
                f"has no workers after {workers_s:g} s; start one: dask worker {scheduler} "
                "--nthreads 1"
            )
            raise OptionError("scheduler", scheduler, rule) from error
        yield Cluster(client, scheduler)


def absolute(job: Job) -> Job:
    """Gives a job whose paths hold in any folder."""
    changes: dict[str, Any] = {name: getattr(job, name).absolute() for name in ("source", "output")}
    for name in ("model", "base", "tissue"):
        value = getattr(job, name)
        if value is not None and Path(value).exists():
            changes[name] = str(Path(value).absolute())
    return replace(job, **changes)


def check_workers(
    cluster: Cluster, job: Job, seen_s: float = SEEN_S, *, of_one_kind: bool = False
) -> None:
    """Makes sure that all workers have this version and see the files of a job.

    Args:
        cluster: where the job is to run.
        job: with absolute paths.
        seen_s: how long a file system may take to show a new file.
        of_one_kind: whether several workers compute one slide, and must compute alike.

    Raises:
        OptionError: a worker has another version, does not see a file, or computes differently
            than the others; the message names its host.
        OutputError: the output's folder cannot be written.
    """
    inputs = [str(job.source), *(p for p in (job.model, job.base, job.tissue) if _is_path(p))]
    probe = job.output.parent / f".wsisr-probe-{uuid.uuid4().hex}"
    if not probe.parent.is_dir():
        raise OutputError(f"{job.output}: the folder {probe.parent} does not exist; create it")
    with os_errors(job.output):
        probe.touch()
    try:
        found = cluster.client.run(
            _looker(), inputs, str(probe), seen_s, job.device, on_error="return"
        )
    finally:
        probe.unlink(missing_ok=True)
    for worker, facts in found.items():
        if isinstance(facts, BaseException):
            raise OptionError("scheduler", cluster.scheduler, f"{worker} does not answer: {facts}")
        _check_facts(cluster.scheduler, facts)
    if of_one_kind:
        _check_machines(cluster.scheduler, list(found.values()))


def _check_machines(scheduler: str, found: list[dict[str, Any]]) -> None:
    """Refuses workers of different kinds, for their rows would differ by a grey level."""
    for facts in found[1:]:
        if facts["machine"] != found[0]["machine"]:
            kinds = (
                f"{each['host']} ({', '.join(each['machine'].values())})"
                for each in (found[0], facts)
            )
            rule = f"its workers on {' and '.join(kinds)} compute differently; give one kind alone"
            raise OptionError("scheduler", scheduler, rule)


def _is_path(name: str | None) -> bool:
    return name is not None and Path(name).is_absolute()


def _check_facts(scheduler: str, facts: dict[str, Any]) -> None:
    host = facts["host"]
    if facts["version"] != VERSION:
        theirs = "no wsisr" if facts["version"] is None else f"wsisr {facts['version']}"
        rule = f"its worker on {host} has {theirs}, here is wsisr {VERSION}; install the same"
        raise OptionError("scheduler", scheduler, rule)
    if facts["unseen"]:
        rule = (
            f"its worker on {host} does not see {facts['unseen'][0]}; put it where all machines "
            "see it under the same path"
        )
        raise OptionError("scheduler", scheduler, rule)


def _looker() -> Any:
    """Gives what looks around on a worker; nested, so that a worker needs no wsisr to run it."""

    def look(inputs: list[str], probe: str, seen_s: float, device: str | None) -> dict[str, Any]:
        import socket
        import time
        from pathlib import Path

        try:
            from wsisr.version import VERSION as found  # noqa: N811

            version: str | None = found
        except ImportError:
            version = None
        machine = None
        if version is not None:
            from wsisr.engine import describe_machine
            from wsisr.models import name_device

            machine = describe_machine(name_device(device))
        end = time.monotonic() + seen_s
        while not Path(probe).exists() and time.monotonic() < end:
            time.sleep(0.2)
        unseen = [path for path in inputs if not Path(path).exists()]
        if not Path(probe).exists():
            unseen.append(f"the output's folder {Path(probe).parent}")
        host = socket.gethostname()
        return {"host": host, "version": version, "unseen": unseen, "machine": machine}

    return look
